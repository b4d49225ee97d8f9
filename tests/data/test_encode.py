"""`python -m data.encode`: from a source to records."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import encode
from data.encoding.config import EncodeConfig
from data.encoding.tokenise import PictureEncoder
from data.exams.exam import read_real_pictures
from data.pictures.reading import describe_skipped
from data.records import Records, open_records
from data.text.captions import hash_vocabulary, normalizer_of
from data.text.normalise import make_normalizer
from data.text.tokens import open_tokenizer, train_tokenizer
from tests.data.samples import picture

MakeFolder = Callable[..., Path]
Encode = Callable[..., Records]


@pytest.fixture
def run(tmp_path: Path, encoder: PictureEncoder, monkeypatch: pytest.MonkeyPatch) -> Encode:
    """A function that calls the command with a fake VQGAN."""
    (tmp_path / "vqgan").mkdir()
    (tmp_path / "vqgan" / "config.json").write_text("{}")
    monkeypatch.setattr(encode, "open_encoder", lambda folder, tried_codes: encoder)

    def call(*sources: Path, out: str = "records", **changed: Any) -> Records:
        folders = {"source": tuple(map(str, sources)), "out": str(tmp_path / out)}
        settings: dict[str, Any] = {
            "vqgan": str(tmp_path / "vqgan"),
            "vocab_size": 300,
            "text_length": 12,
        }
        encode.main(EncodeConfig(**(folders | settings | changed)))
        return open_records(tmp_path / out)

    return call


def test_a_folder_becomes_records_that_explain_themselves(
    run: Encode, make_folder: MakeFolder, encoder: PictureEncoder
) -> None:
    records = run(make_folder(40))
    assert len(records) == 40
    assert records.rows("train").size + records.rows("held_out").size == 40
    example = records.examples[7]
    assert (example["key"], example["file"], example["source_index"]) == ("007", "007.png", 7)
    assert example["caption"] == "noise number 7"
    tokenizer = open_tokenizer(records.tokenizer_folder)
    expected = tokenizer.encode([e["caption"] for e in records.examples], 12)
    np.testing.assert_array_equal(records.text_tokens, expected[0])
    np.testing.assert_array_equal(records.text_lengths, expected[1].sum(axis=1))
    assert (records.vqgan_folder / "config.json").is_file()
    assert records.codebook_size == encoder.codebook_size


def test_each_picture_keeps_its_own_tokens_whatever_the_batch(
    run: Encode, make_folder: MakeFolder, encoder: PictureEncoder
) -> None:
    from data.pictures.reading import read_pictures
    from data.sources import open_source

    records = run(make_folder(37))
    readings = read_pictures(open_source(records.sources), encoder.image_size)
    pixels = np.stack([reading.pixels for reading in readings if reading.pixels is not None])
    expected = encoder.encode(pixels.astype(np.float32) / 127.5 - 1)
    np.testing.assert_array_equal(records.image_tokens, expected)


def test_encoding_twice_gives_the_same_bytes(run: Encode, make_folder: MakeFolder) -> None:
    folder = make_folder(30)
    one, two = run(folder, out="one"), run(folder, out="two")
    assert one.digest == two.digest
    files = {p.relative_to(one.folder) for p in one.folder.rglob("*") if p.is_file()}
    for name in files:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_another_number_of_tried_codes_makes_other_records(
    run: Encode, make_folder: MakeFolder
) -> None:
    folder = make_folder(10)
    run(folder)
    with pytest.raises(ValueError, match=r"since then vqgan \(was \w+, now \w+, tried_codes 2\)"):
        run(folder, tried_codes=2)
    with pytest.raises(ValueError, match="another VQGAN"):
        run(folder, out="others", tried_codes=2, reuse=str(Path(folder.parent / "records")))


def test_copies_of_a_picture_are_on_one_side(run: Encode, make_folder: MakeFolder) -> None:
    folder = make_folder(60)
    for i in range(60):
        (folder / f"copy{i:03d}.png").write_bytes(picture(i))
        (folder / f"copy{i:03d}.txt").write_text(f"again {i}")
    records = run(folder, held_out=0.3)
    names = {e["key"]: e["split"] for e in records.examples}
    assert 15 < list(names.values()).count("held_out") < 60
    assert all(names[f"{i:03d}"] == names[f"copy{i:03d}"] for i in range(60))


def test_the_tokenizer_never_sees_held_out_captions(
    run: Encode, make_folder: MakeFolder, tmp_path: Path
) -> None:
    records = run(make_folder(60), held_out=0.4)
    train_tokenizer(
        [e["caption"] for e in records.examples if e["split"] == "train"], 300, tmp_path / "own"
    )
    own = (tmp_path / "own" / "tokenizer.json").read_bytes()
    assert (records.tokenizer_folder / "tokenizer.json").read_bytes() == own


def test_a_given_tokenizer_is_used_and_kept(
    run: Encode, make_folder: MakeFolder, tmp_path: Path
) -> None:
    train_tokenizer(["noise number"] * 3, 270, tmp_path / "mine")
    records = run(make_folder(20), tokenizer=str(tmp_path / "mine"))
    kept = (records.tokenizer_folder / "tokenizer.json").read_bytes()
    assert kept == (tmp_path / "mine" / "tokenizer.json").read_bytes()


def test_a_tokenizer_of_another_form_is_refused_by_its_name_before_a_picture_is_encoded(
    run: Encode, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(encode, "encode_shards", lambda *_: pytest.fail("pictures were encoded"))
    with pytest.raises(ValueError, match=f"^{tmp_path / 'mine'} has no tokenizer.json"):
        run(make_folder(20), tokenizer=str(tmp_path / "mine"))


def test_records_say_what_made_their_text_and_go_through_the_normaliser_of_the_tokenizer(
    run: Encode, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder(20)
    (folder / "003.txt").write_text("A Café of #bluecats")
    train_tokenizer(["noise number"] * 3, 270, tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text('{"normalize_text": true}')
    records = run(folder, tokenizer=str(tmp_path / "mine"))
    expected = open_tokenizer(tmp_path / "mine", make_normalizer())
    tokens = expected.encode([e["caption"] for e in records.examples], 12)[0]
    np.testing.assert_array_equal(records.text_tokens, tokens)
    assert records.about["text"] == {
        "normalizer": "dalle_mini",
        "words": hash_vocabulary(tmp_path / "mine"),
        "text_length": 12,
        "pad_id": expected.pad_id,
        "end_id": expected.end_id,
    }
    other = run(folder, out="other", tokenizer=str(tmp_path / "mine"), normalizer="clean")
    assert (other.text_tokens != records.text_tokens).any()
    assert normalizer_of(other.tokenizer_folder) == "clean"


def test_the_same_command_again_says_that_it_is_done(
    run: Encode, make_folder: MakeFolder, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    folder = make_folder(20)
    run(folder)
    monkeypatch.setattr(encode, "open_encoder", None)
    run(folder)
    assert "is finished already: 20 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["caption", "option"])
def test_records_of_something_else_are_not_replaced(
    run: Encode, make_folder: MakeFolder, what: str
) -> None:
    folder = make_folder(20)
    before = run(folder).digest
    if what == "caption":
        (folder / "003.txt").write_text("noise number 4")
    with pytest.raises(ValueError, match="holds something else"):
        run(folder, **({} if what == "caption" else {"text_length": 13}))
    assert run(make_folder(20, "same"), out="other").digest == before


def test_after_ten_more_pictures_it_says_what_changed_and_what_to_type(
    run: Encode, make_folder: MakeFolder
) -> None:
    folder = make_folder(20)
    run(folder)
    for i in range(10):
        (folder / f"more{i}.png").write_bytes(picture(100 + i))
        (folder / f"more{i}.txt").write_text("one more")
    out = r"\S*records"
    message = (
        rf"{out} holds something else: 20 pictures .*the source's files changed; .*--out {out}-2"
    )
    with pytest.raises(
        ValueError, match=rf"{message} and train there with --data\.records={out}-2"
    ):
        run(folder)
    with pytest.raises(ValueError, match=r"source's files, text_length \(was 12, now 13\) changed"):
        run(folder, text_length=13)


def test_unusable_pictures_among_good_ones_are_counted_and_named(
    run: Encode, make_folder: MakeFolder, capsys: pytest.CaptureFixture
) -> None:
    folder = make_folder(30)
    (folder / "004.png").write_bytes(b"broken")
    (folder / "009.txt").write_text(" ")
    records = run(folder)
    assert len(records) == 28
    assert records.about["num_skipped"] == 2
    assert [s.split(":")[0] for s in records.about["skipped"]] == ["004.png", "009.png"]
    bad = (records.folder / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["picture"] for line in bad] == ["004.png", "009.png"]
    output = capsys.readouterr().err
    assert "skipped 2 of 30 pictures: 004.png (not a JPEG, PNG, WebP or" in output
    assert "009.png (no caption)" in output


def test_each_reason_for_skipping_is_said_however_many_another_has(
    run: Encode, make_folder: MakeFolder, capsys: pytest.CaptureFixture
) -> None:
    folder = make_folder(30)
    for i in range(6):
        (folder / f"{i:03d}.txt").write_text(" ")
    (folder / "020.png").write_bytes(b"gimp xcf")
    run(folder, shard_size=10)
    output = capsys.readouterr().err
    assert "skipped 7 of 30 pictures: 000.png, 001.png, 002.png" in output
    assert "004.png (no caption) and 2 more (1 × no caption, 1 × not a JPEG, PNG, WebP or" in output
    assert "GIMP's XCF" in output


def test_a_few_pictures_of_which_most_are_unusable_are_refused_as_many_are(
    run: Encode, make_folder: MakeFolder
) -> None:
    folder = make_folder(30)
    for i in range(2, 28):
        (folder / f"{i:03d}.png").write_bytes(b"gimp xcf")
    message = "skipped 26 of 30 pictures: .* 21 more for the same reason; that is more than max_bad"
    with pytest.raises(ValueError, match=message):
        run(folder)
    assert len(run(folder, max_bad_fraction=1.0)) == 4


def test_one_reason_is_said_once() -> None:
    skipped = [(f"{i}.jpg", "no caption") for i in range(7)]
    text = "skipped 7 of 9 pictures: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg (no caption)"
    assert describe_skipped(skipped, 9) == f"{text} and 2 more for the same reason"
    assert describe_skipped(skipped[:5], 9) == text.replace("7", "5")


def test_pictures_are_read_for_the_exam_as_they_were_encoded(
    run: Encode, make_folder: MakeFolder
) -> None:
    folders = [make_folder(20, name) for name in ("mine", "yours")]
    records = run(*folders, splits="none", fit="pad", background="black")
    assert records.sources == [str(folder) for folder in folders]
    assert (records.reading.fit, records.reading.splits) == ("pad", "none")
    shown = read_real_pictures(records, [records.examples[i] for i in (0, 25)], 12)
    assert (shown[:, 0] == 0).all()  # 12 × 10 pictures have a bar above them


def test_unreadable_files_and_odd_names_are_never_fatal(
    run: Encode, make_folder: MakeFolder, capsys: pytest.CaptureFixture
) -> None:
    folder = make_folder(30)
    for name in ("y.png", "z.png", "009.json", "010.txt"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("nowhere")
    (folder / "y.txt").write_text("a link to nowhere")
    os.mkfifo(folder / "f.png")
    odd = os.fsdecode(b"odd\xff.png")
    (folder / odd).write_bytes(picture(50))
    (folder / odd).with_suffix(".txt").write_text("odd")
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
    records = run(folder)
    assert len(records) == 30
    assert odd in {e["file"] for e in records.examples}
    assert records.about["num_skipped"] == 4
    output = capsys.readouterr().err
    unread = "010.png (no caption; a caption file cannot be read)"
    assert all(name in output for name in ("y.png", "z.png", unread, "bad\\udcff.png"))
    run(folder)
    assert "finished already" in capsys.readouterr().out


def test_cut_captions_are_counted(
    run: Encode, make_folder: MakeFolder, capsys: pytest.CaptureFixture
) -> None:
    folder = make_folder(20)
    (folder / "005.txt").write_text("noise " * 30)
    assert run(folder).about["num_captions_cut"] == 1
    assert "1 captions were truncated to text_length 12" in capsys.readouterr().err


def test_a_source_without_one_usable_picture_is_refused(
    run: Encode, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder(2)
    for i in range(2):
        (folder / f"{i:03d}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"skipped 2 of 2 .*000\.png.*none is left"):
        run(folder)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vqgan": "nowhere"}, "vqgan folder nowhere does not exist"),
        ({"tokenizer": "nowhere"}, "tokenizer folder nowhere does not exist"),
        ({"tried_codes": 0}, "tried_codes 0 is not at least 1"),
        ({"held_out": 1.0}, "held_out 1.0 is not between 0 and 1"),
        ({"text_length": 1}, "text_length 1 is not between"),
        ({"vocab_size": 10}, "vocab_size 10 has no room"),
    ],
)
def test_impossible_settings_are_refused(
    run: Encode, make_folder: MakeFolder, changed: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(make_folder(3), **changed)


@pytest.mark.parametrize("case", ["missing folder", "no captions", "output taken"])
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    case: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder, out = make_folder(3), tmp_path / "records"
    if case == "missing folder":
        folder = tmp_path / "nowhere"
    elif case == "no captions":
        for path in folder.glob("*.txt"):
            path.unlink()
    else:
        out = tmp_path
    command = [sys.executable, "-m", "data.encode", f"--source={folder}", f"--out={out}"]
    done = subprocess.run([*command, f"--vqgan={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("python -m data.encode: ")
