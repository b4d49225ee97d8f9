"""evaluate.py on a tiny run: prompts, gallery, JSON, several runs, and errors in one line."""

import dataclasses
import json
import shutil
import sys
import tarfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import evaluate as evaluate_module
from command_line.parser import parse_config, run
from data.exams.exam import (
    Exam,
    Selection,
    choose_gallery,
    choose_prompts,
    never_seen,
    open_exam,
    with_prompts,
)
from data.exams.gallery import picture_features
from data.records import Records, open_records
from drawing.opening import open_checkpoint
from drawing.ranking import open_ranker
from evaluate import EvaluateConfig, draw, main, open_drawers
from evaluation.scores import interval_of_prompts, interval_of_runs, means
from evaluation.set_figures import FeatureSpace, compare, describe_clip, measure_real
from tests.entry.clip_folders import write_clip
from tests.entry.conftest import write_source
from tests.png_texts import read_png_about
from vqgan import pretrained as pretrained_vqgan

FEW = "--pictures=2"


@pytest.fixture
def records(records_folder: Path) -> Records:
    return open_records(records_folder)


def evaluate(capsys: pytest.CaptureFixture, *words: str | Path) -> str:
    main(parse_config(EvaluateConfig, [str(word) for word in words]))
    return capsys.readouterr().out


def test_the_json_holds_scores_beside_chance_and_ceiling(
    run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    report = json.loads(evaluate(capsys, run_folder, "--json", FEW, "--half=all"))
    scores = report["splits"]["tone"]
    assert set(scores) == {"all_top1", "all_top5", "concept", "tone5way", "nn_is_train"}
    assert all(0 <= share <= 1 for share in scores.values())
    assert report["prompts"] == {"tone": 8}
    assert report["gallery"] == 40
    assert report["chance"]["tone"] == pytest.approx(
        {"all_top1": 1 / 40, "all_top5": 5 / 40, "concept": 1 / 8, "tone5way": 1 / 5}
        | {"nn_is_train": 31 / 40}
    )
    assert set(report["ceiling"]["tone"]) == set(scores)
    assert set(report["another"]["tone"]) == {"concept"}


def test_where_records_name_styles_they_are_asked_for_by_codes(
    run_folder: Path,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The concepts stand for styles: each has pictures in training and in the held-out split."""

    def with_styles(records: Records, image_size: int, selection: Selection) -> Exam:
        named = [{**example, "style": example["concept"]} for example in records.examples]
        records.__dict__["examples"] = named  # a cached property
        return open_exam(records, image_size, selection)

    monkeypatch.setattr("evaluate.open_exam", with_styles)
    report = json.loads(evaluate(capsys, run_folder, "--json", FEW, "--half=all"))
    assert report["chance"]["tone"]["style_codes"] == pytest.approx(1 / 8)
    for row in ("splits", "ceiling"):
        assert 0 <= report[row]["tone"]["style_codes"] <= 1
    assert report["another"]["tone"].keys() == {"concept"}


def test_likeness_stands_beside_chance_and_ceiling(
    run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    report = json.loads(evaluate(capsys, run_folder, "--json", FEW, "--half=all"))
    rows = report["likeness"]["tone"]
    assert report["seen_by"] == "shape and colour"
    assert set(rows) == {"drawn", "chance", "ceiling"}
    assert set(rows["drawn"]) == {"frechet", "diversity"}
    assert set(rows["ceiling"]) == {"frechet"}
    assert rows["chance"]["frechet"] < rows["drawn"]["frechet"]  # random weights draw noise


def test_real_pictures_are_looked_at_once_for_all_runs(records: Records) -> None:
    exam, seen = open_exam(records, 8, Selection(half="all")), []

    def features(pictures: np.ndarray) -> np.ndarray:
        seen.append(len(pictures))
        return picture_features(pictures)

    real, space = exam.gallery.pictures[exam.targets["tone"]], FeatureSpace("counted", features)
    references = measure_real(space, exam, "tone", real)
    seen.clear()
    runs = [compare(space, references, real[:, None]) for _ in range(2)]
    assert seen == [8, 8]  # the pictures that each run has drawn
    assert runs[0] == runs[1]
    assert runs[0]["drawn"] == runs[0]["ceiling"]


def test_clip_is_what_the_likeness_is_seen_by(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clip = write_clip(tmp_path / "clip")
    asked: list[str | Path] = [run_folder, FEW, "--half=all", f"--clip={clip}"]
    report = json.loads(evaluate(capsys, *asked, "--json"))
    for row in report["likeness"]["tone"].values():
        assert -100 <= row["clip_score"] <= 100
    main(parse_config(EvaluateConfig, [str(word) for word in asked]))
    text, said = capsys.readouterr()
    assert f"likeness, by the CLIP in {clip}:" in text
    assert "CLIP score: 100 × the cosine" in text
    assert said.count(f"{describe_clip(str(clip), 4, 0)}\n") == 1


def test_one_line_says_what_the_clip_is_used_for() -> None:
    assert describe_clip("c", 2, 8) == (
        "the CLIP in c chooses 2 of 8 candidates; likeness is by shape and colour"
    )
    assert describe_clip("c", 4, 0) == (
        "the CLIP in c measures likeness and gives a score; it chooses no pictures without "
        "--candidates"
    )


def test_of_the_candidates_those_are_judged_that_clip_scores_highest(
    run_folder: Path, tmp_path: Path, records: Records, capsys: pytest.CaptureFixture
) -> None:
    """A CLIP in the run's folder is used without a flag. Pictures that it chose get no CLIP
    score."""
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    words: list[str | Path] = [
        run,
        "--half=all",
        "--pictures=2",
        "--candidates=3",
        "--json",
        "--grid=",
    ]
    with pytest.raises(ValueError, match="candidates are ranked by a CLIP: train one with"):
        evaluate(capsys, *words)
    ranker = open_ranker(write_clip(run / "clip"))
    report = json.loads(evaluate(capsys, *words))
    assert (report["candidates"], report["seen_by"]) == (3, "shape and colour")

    config = parse_config(EvaluateConfig, [str(word) for word in words])
    checkpoint = open_checkpoint(run)
    (drawer,) = open_drawers([checkpoint], config)
    exam = open_exam(records, drawer.image_size, Selection(half="all"))
    kept = draw(drawer, checkpoint, exam, "tone", config, ranker)
    drawn = draw(drawer, checkpoint, exam, "tone", dataclasses.replace(config, pictures=3))
    prompts = exam.prompts("tone")
    assert kept.shape[:2] == (len(prompts), 2)
    for prompt, best, candidates in zip(prompts, kept, drawn, strict=True):
        scores = ranker.score([prompt] * 3, candidates)
        np.testing.assert_array_equal(best, candidates[np.argsort(-scores, kind="stable")[:2]])


def test_the_page_shows_figures_pictures_and_pairs(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drawing.choosing.PROMPTS", 4)
    path = tmp_path / "evaluation.html"
    asked: list[str | Path] = [run_folder, FEW, "--half=all", "--json", "--grid=", f"--page={path}"]
    report = json.loads(evaluate(capsys, *asked, "--pairs", "1:1", "2:0.5"))
    assert [(trial["guidance_scale"], trial["temperature"]) for trial in report["pairs"]] == [
        (1.0, 1.0),
        (2.0, 0.5),
    ]
    text = path.read_text()
    # eight prompts, each with its real picture, two drawn ones, and the nearest to the first
    assert text.count("<img ") == 8 * 4
    right = report["splits"]["tone"]["concept"] * 8 * 2
    assert text.count("<span class=right>") == pytest.approx(right)
    assert text.count("temperature 0.5") == 1
    assert "://" not in text


@pytest.mark.parametrize("pair", ["1", "1:warm", "0.5:-1", "nan:1", "1:nan"])
def test_a_pair_that_is_not_two_numbers_is_refused(pair: str) -> None:
    with pytest.raises(ValueError, match="not GUIDANCE:TEMPERATURE"):
        EvaluateConfig(("run",), pairs=(pair,))


def test_a_page_that_cannot_be_written_is_reported_before_drawing(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ValueError, match="name a .html file"):
        evaluate(capsys, run_folder, f"--page={tmp_path / 'page.png'}")
    with pytest.raises(ValueError, match="there is no folder"):
        evaluate(capsys, run_folder, f"--page={tmp_path / 'gone' / 'page.html'}")


def test_the_table_names_every_question(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    text = evaluate(capsys, run_folder, FEW, "--half=all")
    for word in (
        "tone: 8 held-out prompts × 2 pictures, both halves",
        "right concept",
        "is the nearest",
        "right tone of 5: of the five skin tones the prompt's is the nearest",
        "chance",
        "ceiling",
        "in brackets a 95 % interval over the prompts",
    ):
        assert word in text
    assert max(map(len, text.splitlines()[:-1])) <= 120


def test_several_runs_give_a_mean_and_an_interval_over_the_runs(
    run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    step = run_folder / "checkpoints" / "0"
    report = json.loads(evaluate(capsys, run_folder, step, "--json", FEW, "--half=all"))
    one, other = report["runs"].values()
    assert one == other == {"tone": report["splits"]["tone"]}
    assert set(report["interval"]["tone"].values()) == {0.0}


def test_settings_of_the_command_line_change_what_is_drawn(
    run_folder: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    flags = ("--json", FEW, "--half=all", "--temperature=0", "--guidance_scale=1")
    report = json.loads(evaluate(capsys, run_folder, *flags, f"--grid={tmp_path / 'g.png'}"))
    assert report["pictures"] == 2
    prompts = json.loads(read_png_about(tmp_path / "g.png")["prompts"])
    assert sorted(prompts) == [f"tan bar {i}" for i in range(8)]


@pytest.mark.parametrize("name", ["folder", "cat.jpg", "file/g.png", "mine.png"])
def test_a_grid_that_cannot_be_written_is_reported_before_drawing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(evaluate_module, "draw", lambda *_: pytest.fail("drew"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    with pytest.raises(ValueError, match="is a folder|as PNG|cannot write to|was not drawn by"):
        main(EvaluateConfig((str(run_folder),), grid=str(tmp_path / name)))


def test_scores_are_printed_before_the_grid_is_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(evaluate_module, "save_png", full)
    with pytest.raises(OSError, match="No space left"):
        main(EvaluateConfig((str(run_folder),), pictures=1, grid=str(tmp_path / "g.png")))
    assert "ceiling" in capsys.readouterr().out


def test_more_pictures_than_memory_holds_are_refused(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_module, "draw", lambda *_: pytest.fail("drew"))
    with pytest.raises(ValueError, match=r"prompts × 1,000,000,000 pictures take .* GB of .* or f"):
        main(EvaluateConfig((str(run_folder),), pictures=10**9))


def test_a_grid_stands_in_the_run_unless_it_may_not(
    copies: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    run, _ = copies
    (run / "held_out.png").unlink(missing_ok=True)
    evaluate(capsys, run, FEW, "--half=all", "--grid=")
    assert not (run / "held_out.png").exists()
    evaluate(capsys, run, FEW, "--half=all")
    before = (run / "held_out.png").read_bytes()
    assert len(json.loads(read_png_about(run / "held_out.png")["prompts"])) == 8
    Image.new("RGB", (8, 8)).save(run / "held_out.png")
    main(EvaluateConfig((str(run),), pictures=1, half="all"))
    output = capsys.readouterr()
    assert "no grid of held-out prompts" in output.err
    assert "right concept" in output.out
    assert (run / "held_out.png").read_bytes() != before


def test_where_training_never_showed_the_like_it_says_so_and_draws_training_captions_too(
    copies: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    run, folder = copies
    lines = (folder / "examples.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    for example in changed:
        if example["split"] == "tone":
            example["concept"] = "new " + example["concept"]
    (folder / "examples.jsonl").write_text("".join(json.dumps(e) + "\n" for e in changed))
    (folder / "examples.i64").unlink()  # the offsets of the lines before the change
    words = (run, FEW, "--half=all", "--max_prompts=5", "--splits=tone")
    text = evaluate(capsys, *words)
    assert "5 of them name things that training never showed" in text
    assert "train: 5 training captions × 2 pictures" in text
    report = json.loads(evaluate(capsys, *words, "--json"))
    assert set(report["splits"]) == {"tone"}
    assert report["training"]["prompts"] == {"train": 5}
    assert report["never_seen"] == {"tone": 5}
    prompts = json.loads(read_png_about(run / "held_out.png")["prompts"])
    assert len([p for p in prompts if p.endswith(" (trained on)")]) == 5


def test_both_halves_are_asked_for_where_one_holds_no_prompt(records: Records) -> None:
    tone = records.rows("tone")
    halves = {zlib.crc32(records.examples[int(i)]["key"].encode()) % 2: i for i in tone}
    assert with_prompts(records, Selection()) == Selection()
    split = records.arrays["split"].copy()
    split[tone] = records.split_names.index("train")
    split[halves[0]] = records.split_names.index("tone")  # one prompt, of the tune half
    few = dataclasses.replace(records, split=split)
    assert with_prompts(few, Selection()) == Selection(half="all")
    assert with_prompts(few, Selection(half="tune")) == Selection(half="tune")


def test_things_never_seen_are_known_by_concept_or_by_word(records: Records) -> None:
    assert never_seen(records, records.rows("tone")) == []  # their concepts were seen
    plain = dataclasses.replace(records)
    plain.__dict__["examples"] = [{"caption": e["caption"]} for e in records.examples]
    assert len(never_seen(plain, records.rows("tone"))) == 8  # no training caption has "tan"
    assert never_seen(plain, records.rows("train")) == []


def test_the_halves_share_no_prompt_and_leave_none_out(records: Records) -> None:
    tune, report, both = (
        choose_prompts(records, "tone", Selection(half=half)).tolist()
        for half in ("tune", "report", "all")
    )
    assert not set(tune) & set(report)
    assert sorted(tune + report) == both == records.rows("tone").tolist()
    few = choose_prompts(records, "tone", Selection(half="all", max_prompts=3)).tolist()
    assert len(few) == 3
    assert set(few) < set(both)


def test_real_pictures_pass_the_exam(records: Records) -> None:
    exam = open_exam(records, 8, Selection(half="all"))
    pictures = exam.gallery.pictures[exam.targets["tone"]]
    scores = means(exam.judge("tone", pictures[:, None]))
    assert scores.pop("nn_is_train") == 0
    assert set(scores.values()) == {1.0}


def test_a_large_gallery_is_thinned_out_but_keeps_the_targets(records: Records) -> None:
    needed = records.rows("tone")
    chosen = choose_gallery(records, needed, 20)
    assert len(chosen) == len(set(chosen.tolist())) == 20
    assert set(needed.tolist()) < set(chosen.tolist())
    assert choose_gallery(records, needed, 1000).tolist() == list(range(40))
    assert choose_gallery(records, needed, 2).tolist() == needed.tolist()
    exam = open_exam(records, 8, Selection(half="all", max_gallery=20))
    assert all(exam.gallery.attributes[i]["split"] == "tone" for i in exam.targets["tone"])


def test_intervals_over_runs_are_students() -> None:
    assert interval_of_runs([0.5, 0.6, 0.7]) == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-6)
    assert interval_of_runs([0.5, 0.7]) == pytest.approx(12.706205 * 0.1, abs=1e-6)


def test_intervals_over_prompts_are_wilsons() -> None:
    z = 1.984217  # Student's with 99 degrees of freedom
    one_each = np.array([[1.0]] * 90 + [[0.0]] * 10)
    bounds = [share for share in (0.9 - d / 1e4 for d in range(9000)) if _score(share, 100) <= z]
    assert interval_of_prompts(one_each) == pytest.approx(0.9 - min(bounds), abs=2e-3)
    assert interval_of_prompts(np.array([[1.0]])) is None


def test_all_right_is_not_certain_and_the_fewer_prompts_the_less() -> None:
    widths = [interval_of_prompts(np.full((count, 4), right)) or 0.0 for right, count in ALIKE]
    assert min(widths) > 0.03
    assert widths[0] == widths[1] < widths[2]


def test_pictures_that_repeat_their_prompts_answer_add_nothing() -> None:
    answers = (np.arange(40) % 3 == 0).astype(float)[:, None]
    alone, repeated = interval_of_prompts(answers), interval_of_prompts(answers.repeat(8, axis=1))
    assert alone == repeated
    mixed = np.random.default_rng(0).random((40, 8)) < 1 / 3
    assert (interval_of_prompts(mixed.astype(float)) or 1) < 0.6 * (alone or 0)


def test_prompts_that_are_not_asked_do_not_count() -> None:
    answers = (np.arange(40) % 3 == 0).astype(float)[:, None]
    padded = np.concatenate([answers, np.full((9, 1), np.nan)])
    assert interval_of_prompts(padded) == interval_of_prompts(answers)


ALIKE = ((1.0, 60), (0.0, 60), (1.0, 6))


def _score(share: float, count: int) -> float:
    """The distance of 0.9 from a true share, in standard errors."""
    return abs(0.9 - share) / (share * (1 - share) / count) ** 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--splits", "tone", "colour"], "no held-out split 'colour'; there are: tone"),
        (["{run}", "--records=nowhere"], "no token records in nowhere"),
        (["nowhere"], "no checkpoint at nowhere"),
        ([], "required: checkpoints"),
        (["{run}", "--pictures=0"], "pictures must be at least 1, not 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run_folder: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [word.format(run=run_folder) for word in words]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *argv])
    with pytest.raises(SystemExit, match="2"):
        run(main, EvaluateConfig, prog="python -m evaluate", about="")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.fixture
def copies(run_folder: Path, records_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of a run and its records, beside the records' pictures. Tests may change them."""
    shutil.copytree(records_folder.parent, tmp_path / "data")
    shutil.copytree(run_folder, tmp_path / "run")
    settings = tmp_path / "run" / "config.yaml"
    records = tmp_path / "data" / "records"
    settings.write_text(settings.read_text().replace(str(records_folder), str(records)))
    return tmp_path / "run", records


def add_picture(source: Path, before: bool) -> None:
    """Add a tar with one picture, before or after the others."""
    write_source(source / "more.tar")
    with (
        tarfile.open(source / "more.tar") as tar,
        tarfile.open(source / ("!.tar" if before else "~.tar"), "w") as one,
    ):
        for name in ("007.png", "007.json"):
            one.addfile(tar.getmember(name), tar.extractfile(name))
    (source / "more.tar").unlink()


def test_a_source_that_has_changed_is_noticed(copies: tuple[Path, Path]) -> None:
    _, folder = copies
    before = open_exam(open_records(folder), 8, Selection(half="all")).gallery.pictures
    add_picture(folder.parent / "pictures", before=False)
    after = open_exam(open_records(folder), 8, Selection(half="all")).gallery.pictures
    np.testing.assert_array_equal(before, after)
    add_picture(folder.parent / "pictures", before=True)
    with pytest.raises(ValueError, match=r"was \['000', .* and is \['007', .* encode again"):
        open_exam(open_records(folder), 8, Selection(half="all"))


def test_a_source_that_has_shrunk_is_noticed(copies: tuple[Path, Path]) -> None:
    _, folder = copies
    (folder.parent / "pictures" / "0.tar").unlink()
    add_picture(folder.parent / "pictures", before=True)
    with pytest.raises(ValueError, match="1 pictures now and were 40 or more; .* encode again"):
        open_exam(open_records(folder), 8, Selection(half="all"))


def test_records_that_were_made_anew_are_refused_unless_they_are_named(
    copies: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    run, records = copies
    evaluate(capsys, run, FEW, "--half=all", f"--records={records}")
    assert "warning" not in capsys.readouterr().err
    about = json.loads((records / "records.json").read_text())
    (records / "records.json").write_text(json.dumps(about | {"digest": "0ther"}))
    with pytest.raises(ValueError, match="was trained on records .* holds 0ther now"):
        main(EvaluateConfig((str(run),)))
    main(EvaluateConfig((str(run),), pictures=2, half="all", records=str(records)))
    assert "pictures of its training may be among the prompts" in capsys.readouterr().err


def test_records_of_another_vqgan_are_refused(copies: tuple[Path, Path]) -> None:
    run, records = copies
    repaint(records / "vqgan")
    for named in (None, str(records)):
        with pytest.raises(ValueError, match="was encoded with another VQGAN"):
            main(EvaluateConfig((str(run),), records=named))


def test_runs_of_equal_settings_and_unequal_vqgans_are_painted_each_with_its_own(
    copies: tuple[Path, Path], run_folder: Path
) -> None:
    run, _ = copies
    paths = (str(run_folder), str(run / "checkpoints" / "0"), str(run))
    checkpoints = [open_checkpoint(path) for path in paths]
    assert len({id(d) for d in open_drawers(checkpoints, EvaluateConfig(paths))}) == 1
    repaint(run / "vqgan")
    one, *others = open_drawers(checkpoints, EvaluateConfig(paths))
    assert others[0] is others[1]
    tokens = np.arange(4, dtype=np.int32)[None]
    assert (one.decode_tokens(tokens) != others[0].decode_tokens(tokens)).any()


def repaint(folder: Path) -> None:
    """Replace a VQGAN's weights, with the same configuration."""
    config, params = pretrained_vqgan.load(folder)
    pretrained_vqgan.save(folder, config, jax.tree.map(lambda leaf: -leaf, params))


def test_pictures_that_are_gone_are_said_so(records: Records, tmp_path: Path) -> None:
    moved = Records(
        tmp_path / "elsewhere",
        records.about,
        **{
            name: getattr(records, name)
            for name in (
                "image_tokens",
                "text_tokens",
                "text_lengths",
                "caption_offsets",
                "caption_weights",
                "split",
            )
        },
    )
    moved.__dict__["examples"] = records.examples
    gone = "cannot be read again .* there is no .* or the records were moved: ln -s PICTURES "
    with pytest.raises(ValueError, match=gone):
        open_exam(moved, 8, Selection(half="all"))
