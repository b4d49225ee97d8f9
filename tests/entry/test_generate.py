"""generate.py on a tiny run: files, metadata, hostile prompts, and errors in one line."""

import dataclasses
import errno
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import generate as generate_module
from command_line.parser import parse_config, run
from drawing.completing import read_given_tokens, read_mask
from drawing.drawer import make_drawer
from drawing.opening import open_checkpoint
from drawing.outputs import output_paths, sources_of
from drawing.prompts import known_captions, read_prompts, warn_of_unknown
from drawing.unfinished import UNDRAWN
from generate import GenerateConfig, main
from model import transformer
from release import ReleaseConfig, release
from tests.entry.clip_folders import write_clip
from tests.png_texts import read_png_about

REFERENCE = Path(__file__).parent.parent / "reference"
HOSTILE = ["../../etc/passwd", "a\x00b", "\ud800", "w" * 50_000, "</s> <pad>", "日本 ❤️", "--", " "]


def generate(*words: str | Path) -> None:
    """Run generate.py, always with the same rows per call, so that one program is compiled."""
    main(parse_config(GenerateConfig, ["--rows_per_call=4", *map(str, words)]))


def test_the_grid_and_every_picture_are_written(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    generate("--checkpoint", run_folder, "--prompts", "light bar", "", "--pictures=3", "--out", out)
    names = sorted(p.name for p in (tmp_path / "grid").iterdir())
    assert names == [
        *(f"000-light-bar-{k}.png" for k in range(3)),
        *(f"001-prompt-{k}.png" for k in range(3)),
    ]
    about = read_png_about(tmp_path / "grid" / "000-light-bar-2.png")
    assert (about["prompt"], about["seed"], about["picture"]) == ("light bar", "0", "2")
    settings = json.loads(about["settings"])
    assert settings["guidance_scale"] == 2
    assert settings["step"] == 0
    assert json.loads(read_png_about(out)["prompts"]) == ["light bar", ""]
    assert Image.open(tmp_path / "grid" / names[0]).size == (8, 8)


def test_the_same_command_draws_the_same_and_another_seed_other_pictures(
    run_folder: Path, tmp_path: Path
) -> None:
    def drawn(out: str, *words: str | Path, source: Path = run_folder) -> np.ndarray:
        prompts = ["--prompts", "tan bar 1", "dark bar 2"]
        generate("--checkpoint", source, *prompts, *words, "--out", tmp_path / out)
        files = sorted((tmp_path / out).glob("0*.png"))
        return np.stack([np.asarray(Image.open(file)) for file in files])

    first, same = drawn("a"), drawn("b", source=run_folder / "checkpoints" / "0")
    np.testing.assert_array_equal(first, same)
    assert (drawn("c", "--seed=1") != first).any()
    greedy = drawn("d", "--temperature=0", "--guidance_scale=1", "--pictures=2")
    np.testing.assert_array_equal(greedy[0], greedy[1])


def test_hostile_prompts_are_drawn_like_others(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked = GenerateConfig(str(run_folder), prompts=tuple(HOSTILE), out=str(tmp_path / "out"))
    main(dataclasses.replace(asked, rows_per_call=4))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == len(HOSTILE) + 1
    assert {p.parent for p in files} == {tmp_path / "out"}
    assert max(len(read_png_about(file).get("prompt", "")) for file in files) == 4096
    assert json.loads(read_png_about(tmp_path / "out" / "grid.png")["prompts"])[1] == "a b"
    assert "longer than the model's 8 text tokens and were truncated" in capsys.readouterr().err


def test_prompts_come_from_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\ufeffred heart\r\n\nblau \xff\n\n \n".encode()
    (tmp_path / "prompts.txt").write_bytes(text)
    expected = ["red heart", "", "blau ÿ"]
    assert read_prompts(str(tmp_path / "prompts.txt")) == expected
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert read_prompts("-") == expected
    assert read_prompts(None) == []
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe\n")
    os.close(writer)
    assert read_prompts(f"/dev/fd/{reader}") == ["from a pipe"]
    os.close(reader)


def test_prompts_that_cannot_be_read_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "utf16").write_text("red heart", encoding="utf-16")
    with pytest.raises(ValueError, match=r"utf16 is not UTF-8 text but UTF-16"):
        read_prompts(str(tmp_path / "utf16"))
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin1 is not UTF-8 text \(byte 3\); save it as UTF-8"):
        read_prompts(str(tmp_path / "latin1"))
    (tmp_path / "old mac").write_bytes(b"red heart\rpizza\r")
    assert read_prompts(str(tmp_path / "old mac")) == ["red heart", "pizza"]
    with pytest.raises(ValueError, match="no prompts_file at"):
        read_prompts(str(tmp_path))
    with pytest.raises(ValueError, match="prompts_file /dev/zero has more than 67,108,864 bytes"):
        read_prompts("/dev/zero")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input, but that is closed"):
        read_prompts("-")


def test_a_place_that_cannot_be_written_is_reported_before_drawing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_module, "save_pictures", lambda *_: pytest.fail("drew"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "grid.png").mkdir(parents=True)
    for out in ("file/grid.png", "file/folder", "file.png", "out"):
        with pytest.raises(ValueError, match=r"cannot write to .* name another|out .* is a folder"):
            generate("--checkpoint", run_folder, "--prompts", "a", "--out", tmp_path / out)
    assert (tmp_path / "file").read_text() == "mine"


def picture(path: Path) -> Path:
    """Write a picture that Pastel did not draw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_nothing_is_drawn_among_pictures_of_others(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_module, "save_pictures", lambda *_: pytest.fail("drew"))
    flat = picture(tmp_path / "flat" / "000-red-heart-0.png").parent
    deep = picture(tmp_path / "deep" / "class" / "1.JPG").parent.parent
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "0.tar").write_bytes(b"")
    for folder in (flat, deep, tars):
        for out in (f"{folder}.png", folder):
            with pytest.raises(
                ValueError, match="did not draw, such as .*; the drawn ones would be"
            ):
                generate("--checkpoint", run_folder, "--prompts", "a", "--out", out)
    mine = picture(tmp_path / "mine.png")
    before = mine.read_bytes()
    with pytest.raises(
        ValueError, match=r"mine.png exists already, and was not drawn by this program"
    ):
        generate("--checkpoint", run_folder, "--prompts", "a", "--out", mine)
    assert mine.read_bytes() == before


def test_nothing_is_drawn_into_the_training_pictures(run_folder: Path, tmp_path: Path) -> None:
    (source,) = sources_of(open_checkpoint(run_folder).records)
    for out in (source, f"{source}/drawn.png", f"{source}/new/folder"):
        with pytest.raises(ValueError, match="is among the pictures in .* trained on"):
            generate("--checkpoint", run_folder, "--prompts", "a", "--out", out)
    assert [p.name for p in Path(source).iterdir()] == ["0.tar"]
    assert sources_of(None) == sources_of(str(tmp_path)) == []


def test_nothing_is_drawn_into_the_folder_of_a_model(run_folder: Path, tmp_path: Path) -> None:
    """`--out demo` would write demo/grid.png and demo/000.png beside the demo's weights."""
    release = tmp_path / "demo"
    release.mkdir()
    (release / "model.safetensors").write_bytes(b"weights")
    for out in (release, f"{release}.png"):
        with pytest.raises(ValueError, match="demo holds a model's weights; name another --out"):
            generate("--checkpoint", run_folder, "--prompts", "a", "--out", out)
    assert [path.name for path in release.iterdir()] == ["model.safetensors"]


def test_without_out_nothing_of_the_quickstart_is_touched(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "pictures" / "1.png")
    picture(tmp_path / "begun.png")
    for _ in range(2):  # the second run finds its own pictures
        generate("--checkpoint", run_folder, "--prompts", "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "begun.png",
        "drawn",
        "drawn.png",
        "pictures",
    ]
    assert os.listdir("pictures") == ["1.png"]


@pytest.mark.parametrize("name", ["cat.jpg", "cat.JPEG", "cat.webp", "cat.gif", "cat.svg"])
def test_another_kind_of_picture_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"out {name}: pictures are written as PNG; name a .png"):
        output_paths(name)
    (tmp_path / name).mkdir()
    assert output_paths(str(tmp_path / name))[1] == tmp_path / name
    assert output_paths("runs/v1.5") == (Path("runs/v1.5/grid.png"), Path("runs/v1.5"))


def test_a_full_disk_costs_no_picture_that_was_there(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    common = ["--checkpoint", str(run_folder), "--prompts", "a", "b", "--out", str(out)]
    generate(*common)
    before = {path: path.read_bytes() for path in out.iterdir()}
    written = []

    def fsync(file: int) -> None:
        written.append(file)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(sys, "argv", ["generate.py", *common, "--seed=5"])
    with pytest.raises(SystemExit, match="2"):
        run(main, GenerateConfig, prog="generate.py", about="")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device" in error
    assert "001-b-0.png" in error
    assert {p.name for p in out.iterdir()} == {p.name for p in before}  # no partial file
    changed = [p.name for p, content in before.items() if p.read_bytes() != content]
    assert changed == ["000-a-0.png"]


def test_out_is_a_file_or_a_folder(tmp_path: Path) -> None:
    assert output_paths("a/grid.png") == (Path("a/grid.png"), Path("a/grid"))
    assert output_paths("pictures") == (Path("pictures/grid.png"), Path("pictures"))
    (tmp_path / "folder.png").mkdir()
    assert output_paths(str(tmp_path / "folder.png"))[1] == tmp_path / "folder.png"
    (tmp_path / "text").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        output_paths(str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no prompts: pass --prompts"),
        (["--prompts"], "no prompts: pass --prompts"),
        (["--prompts", "a", "--checkpoint=nowhere"], "no checkpoint at nowhere"),
        (["--prompts_file=nowhere"], "no prompts_file at nowhere"),
        (["--prompts", "a", "--pictures=0"], "pictures must be at least 1, not 0"),
        (["--prompts", "a", "--temperature=-1"], "temperature ≥ 0"),
        (["--prompts", "a", "--guidance_scale=1e38"], "guidance_scale 1e+38 is beyond"),
        (["--prompts", "a", "--pictures=1000000000"], "at most 1,000,000 are drawn"),
        (["--prompts", "a", "--rows_per_call=1000000"], "at most 65,536"),
        (["--prompts", "a", "--out=cat.jpg"], "pictures are written as PNG"),
        (["--prompts", "a", "--mask=0,0,1,1"], "part of --complete is redrawn"),
        (["--prompts", "a", "--complete=nowhere.png"], "--complete nowhere.png: No such file"),
        (["--prompts", "a", "--top_p=x"], "top_p"),
        (["--prompts", "a", "--tmperature=1"], "did you mean --temperature?"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run_folder: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = [] if any(w.startswith("--checkpoint") for w in words) else [f"--checkpoint={run_folder}"]
    monkeypatch.setattr(sys, "argv", ["generate.py", *own, *words])
    with pytest.raises(SystemExit, match="2"):
        run(main, GenerateConfig, prog="generate.py", about="")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def word_tokenizer(path: Path, words: int) -> Path:
    """Write a tokenizer.json with this number of words. The first three are BART's special
    tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(words - 4))]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(names[:3])
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_pictures_are_drawn_with_dalle_minis_weights(tmp_path: Path) -> None:
    weights = REFERENCE / "dalle_mini" / "checkpoint_normformer_glu_scan"
    tokenizer = word_tokenizer(tmp_path / "tokenizer", 64)
    vqgan = REFERENCE / "vqgan_flax" / "vqgan_flax"
    parts: list[str | Path] = ["--tokenizer", tokenizer, "--vqgan", vqgan]
    prompts = ["--prompts", "w1 w2", "w3", "--pictures=2"]
    generate("--checkpoint", weights, *parts, *prompts, "--out", tmp_path / "out")
    pictures = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out").glob("0*.png"))]
    assert [p.shape for p in pictures] == [(8, 8, 3)] * 4  # 4 × 4 tokens of 2 × 2 pixels
    parts[1] = word_tokenizer(tmp_path / "larger", 65)
    with pytest.raises(ValueError, match="larger has 65 tokens, more than the model's .* 64"):
        generate("--checkpoint", weights, *parts, *prompts, "--out", tmp_path / "out")
    with pytest.raises(ValueError, match="no tokenizer in .* name one with --tokenizer"):
        generate("--checkpoint", weights, *parts[2:], *prompts, "--out", tmp_path / "out")
    with pytest.raises(ValueError, match="--vqgan"):
        generate("--checkpoint", weights, *parts[:2], *prompts, "--out", tmp_path / "out")


def test_a_picture_is_completed(run_folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun.png"
    Image.new("RGB", (20, 20), "red").save(begun)
    common: list[str | Path] = ["--checkpoint", run_folder, "--prompts", "dark bar 1", "tan bar 2"]
    generate(*common, "--complete", begun, "--complete_rows=2", "--out", tmp_path / "whole")
    whole, same = (np.asarray(Image.open(p)) for p in sorted((tmp_path / "whole").glob("0*.png")))
    np.testing.assert_array_equal(whole, same)  # both rows of tokens are kept
    generate(*common, "--complete", begun, "--out", tmp_path / "half")
    half, other = (np.asarray(Image.open(p)) for p in sorted((tmp_path / "half").glob("0*.png")))
    assert (half != other).any()
    with pytest.raises(ValueError, match="has 2 rows of image tokens; 3 is not"):
        generate(*common, "--complete", begun, "--complete_rows=3", "--out", tmp_path / "x")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"--complete .*text.png: not a JPEG, PNG, WebP"):
        generate(*common, "--complete", tmp_path / "text.png", "--out", tmp_path / "x")


def test_only_places_under_the_mask_are_drawn_anew(run_folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun.png"
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(begun)
    checkpoint = open_checkpoint(run_folder)
    model = transformer.build(checkpoint.model)
    drawer = make_drawer(model, checkpoint.sampling, run_folder, 1)
    whole = read_given_tokens(drawer, str(begun), 2, None)
    assert whole is not None
    drawn = {}
    for mask in ("0,0,0.5,0.5", "0.5,0,1,0.5", "0,0,1,1", "0.5,0.5,1,1"):
        kept = read_given_tokens(drawer, str(begun), 0, mask)
        assert kept is not None
        (tokens, _) = next(drawer.draw_tokens(checkpoint.params, ["tan"], [3], kept))
        np.testing.assert_array_equal(tokens[0][kept >= 0], whole[kept >= 0])
        drawn[mask] = tokens[0], (kept < 0).tolist()
    assert [redrawn for _, redrawn in drawn.values()] == [
        [True, False, False, False],
        [False, True, False, False],
        [True] * 4,
        [False, False, False, True],
    ]
    (anew, _) = next(drawer.draw_tokens(checkpoint.params, ["tan"], [3]))
    np.testing.assert_array_equal(drawn["0,0,1,1"][0], anew[0])
    (last, _) = next(drawer.draw_tokens(checkpoint.params, ["tan"], [3], whole[:3]))
    np.testing.assert_array_equal(drawn["0.5,0.5,1,1"][0], last[0])


def test_a_mask_is_a_rectangle_or_a_light_picture(tmp_path: Path) -> None:
    light = np.zeros((8, 8, 3), np.uint8)
    light[4:, :3] = 255  # three quarters of the lower left token
    Image.fromarray(light).save(tmp_path / "mask.png")
    from_file = read_mask(str(tmp_path / "mask.png"), 2, 8)
    assert from_file.tolist() == [[False, False], [True, False]]
    assert read_mask("0,0.5,0.3,1", 2, 8).tolist() == from_file.tolist()
    for mask, message in {
        "0.1,0.1,0.2,0.2": "covers none of the 2 × 2 image tokens",
        "0.5,0,0.2,1": "must be LEFT,TOP,RIGHT,BOTTOM",
        "0,0,nan,1": "must be LEFT,TOP,RIGHT,BOTTOM",
        "nowhere.png": "--mask nowhere.png: No such file",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_mask(mask, 2, 8)


def test_a_negative_text_stands_in_for_the_empty_one(run_folder: Path, tmp_path: Path) -> None:
    common: list[str | Path] = ["--checkpoint", run_folder, "--prompts", "tan bar 2"]
    common += ["--pictures=4", "--guidance_scale=5000"]

    def drawn(out: str, *words: str) -> bytes:
        generate(*common, *words, "--out", tmp_path / out)
        return b"".join(Image.open(p).tobytes() for p in sorted((tmp_path / out).glob("0*.png")))

    plain = drawn("plain")
    assert drawn("empty", "--negative=") == plain
    assert drawn("other", "--negative=dark bar 7") != plain
    settings = read_png_about(tmp_path / "other" / "grid.png")["settings"]
    assert json.loads(settings)["negative"] == "dark bar 7"
    with pytest.raises(ValueError, match="negative needs guidance"):
        generate(*common[:-1], "--guidance_scale=1", "--negative=x", "--out", tmp_path / "x")


def test_a_gif_shows_the_picture_row_by_row(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words: list[str | Path] = ["--checkpoint", run_folder, "--prompts", "tan bar 2"]
    words += ["--pictures=2", "--gif", "--out", out]
    generate(*words)
    generate(*words)  # the second run replaces its own files
    with Image.open(out / "000-tan-bar-2-1.gif") as gif:
        assert gif.size == (128, 128)
        gif.seek(0)
        first = np.asarray(gif.convert("RGB"))
        gif.seek(1)
        last = np.asarray(gif.convert("RGB")).astype(int)
    assert np.unique(first[64:]).tolist() == [UNDRAWN]
    png = np.asarray(Image.open(out / "000-tan-bar-2-1.png")).repeat(16, 0).repeat(16, 1)
    assert np.abs(last - png.astype(int)).max() <= 8  # a GIF has 256 colours


def test_words_that_no_training_caption_has_are_reported(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words: list[str | Path] = ["--checkpoint", run_folder, "--out", tmp_path / "out"]
    generate(*words, "--prompts", "Light bar 1", "pale BAR", "")
    assert "training caption" not in capsys.readouterr().err
    generate(*words, "--prompts", "a tan bar", "zebra's bar", "bar tan")
    output = capsys.readouterr().err
    assert "no training caption has these words: tan, zebra's" in output  # tan bars are held out
    assert 'no training caption is near "zebra\'s bar"; the nearest are: "' in output
    assert known_captions(tmp_path, []) is known_captions(tmp_path, [str(tmp_path)]) is None
    warn_of_unknown(["zebra"], None)
    assert capsys.readouterr().err == ""


def test_a_release_says_what_it_was_trained_on_where_it_was_asked_to(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    release(ReleaseConfig(str(run_folder), str(tmp_path / "own"), captions=True))
    lines = (tmp_path / "own" / "captions.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) > 20
    assert not [line for line in lines if "tan" in line]  # held out
    generate("--checkpoint", tmp_path / "own", "--out", tmp_path / "out", "--prompts", "zebra")
    assert "no training caption is near 'zebra'; it was trained on" in capsys.readouterr().err
    release(ReleaseConfig(str(run_folder), str(tmp_path / "plain")))
    assert not (tmp_path / "plain" / "captions.txt").exists()
    with pytest.raises(ValueError, match="are not known"):
        release(ReleaseConfig(str(tmp_path / "plain"), str(tmp_path / "again"), captions=True))


def test_clip_puts_the_best_first(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = write_clip(tmp_path / "clip")
    out = tmp_path / "out"
    common: list[str | Path] = ["--checkpoint", run_folder, "--prompts", "tan bar 1"]
    common.append("--pictures=4")
    generate(*common, "--clip", folder, "--out", out)
    numbered = [out / f"000-tan-bar-1-{k}.png" for k in range(4)]
    scores = [float(read_png_about(path)["clip_score"]) for path in numbered]
    best = int(np.argmax(scores))
    assert f"tan bar 1: {scores[best]:.2f} (picture {best})" in capsys.readouterr().out
    grid = np.asarray(Image.open(out / "grid.png"))
    generate(*common, "--out", tmp_path / "unranked")
    assert (grid != np.asarray(Image.open(tmp_path / "unranked" / "grid.png"))).any()
