"""Releases: checked against their list of files, with a card, and found on a hub."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data import encoded
from data.encoded import EncodedConfig
from data.records import open_records
from drawing import hub
from drawing.opening import open_checkpoint
from recipe import keep_parts
from release import ReleaseConfig, release
from release_card import licences
from weights.checksums import SUMS_FILE, check_sums


@pytest.fixture(scope="module")
def given(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    figures = {
        "splits": {"tone": {"all_top1": 0.5, "concept": 1.0}},
        "chance": {"tone": {"all_top1": 0.01, "concept": 0.1}},
        "ceiling": {"tone": {"all_top1": 0.9, "concept": 1.0}},
    }
    (folder / "figures.json").write_text(json.dumps(figures))
    config = ReleaseConfig(
        str(run_folder),
        str(folder / "bars"),
        licence="CC BY 4.0",
        attribution="Drawn by the authors of these tests.",
        figures=str(folder / "figures.json"),
    )
    release(config)
    return folder / "bars"


def test_every_file_is_listed_and_the_usual_tool_agrees(given: Path) -> None:
    listed = {line.split("  ")[1] for line in (given / SUMS_FILE).read_text().splitlines()}
    there = {p.relative_to(given).as_posix() for p in given.rglob("*") if p.is_file()}
    assert listed == there - {SUMS_FILE}
    assert {"model.safetensors", "tokenizer/tokenizer.json", "vqgan/config.json"} <= listed
    done = subprocess.run(["sha256sum", "--check", "--quiet", SUMS_FILE], cwd=given, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["model.safetensors", "vqgan/model.safetensors", "README.md"])
def test_a_file_that_is_another_or_missing_is_refused_by_name(given: Path, name: str) -> None:
    path = given / name
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} was changed: its SHA-256"):
        open_checkpoint(given)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing, which .*{SUMS_FILE} lists"):
        open_checkpoint(given)
    path.write_bytes(right)
    open_checkpoint(given)


@pytest.fixture
def trained(run_folder: Path, records_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, with the parts that train.py stores in it."""
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    keep_parts(open_records(records_folder), run)
    return run


@pytest.mark.parametrize("name", ["tokenizer/pastel.json", "vqgan/config.json"])
def test_a_part_of_a_run_that_was_changed_by_hand_is_refused(
    trained: Path, records_folder: Path, name: str
) -> None:
    open_checkpoint(trained)
    changed = trained / name
    changed.write_bytes(changed.read_bytes().replace(b"clean", b"dalle_mini") + b"\n")
    with pytest.raises(ValueError, match=f"{name} was changed: .*remove {SUMS_FILE} if the change"):
        open_checkpoint(trained)
    with pytest.raises(ValueError, match=f"{name} was changed"):  # training refuses it, too
        keep_parts(open_records(records_folder), trained)
    (trained / SUMS_FILE).unlink()
    open_checkpoint(trained)


@pytest.mark.parametrize("line", ["0" * 64 + "  ../../etc/passwd", "nonsense", "0" * 64 + "  /x"])
def test_a_list_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / SUMS_FILE).write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1 is not a checksum"):
        check_sums(tmp_path)
    (tmp_path / SUMS_FILE).write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match="is not a list of checksums"):
        check_sums(tmp_path)


def test_the_card_says_what_it_reaches_and_whose_data_it_saw(given: Path) -> None:
    card = (given / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pastel\n")
    assert "| drawn | 50.0 | 100.0 |" in card
    assert "| ceiling | 90.0 | 100.0 |" in card
    assert "Licence of the data: CC BY 4.0." in card
    assert "Drawn by the authors of these tests." in card


def test_a_release_without_a_licence_says_so(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(ReleaseConfig(str(run_folder), str(tmp_path / "bars")))
    assert "does not say whose data it was trained on: add --licence" in capsys.readouterr().err
    assert "Find it out before you give this away" in (tmp_path / "bars/README.md").read_text()
    assert licences(str(tmp_path / "nowhere")) == []
    (tmp_path / "odd.json").write_text("{}")
    odd = ReleaseConfig(str(run_folder), str(tmp_path / "odd"), figures=str(tmp_path / "odd.json"))
    with pytest.raises(ValueError, match="odd.json is not what `python -m evaluate RUN --json`"):
        release(odd)
    assert not (tmp_path / "odd").exists()


def test_a_model_on_the_hub_is_its_folder(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".py", ".bin", ".pkl")) for pattern in allow_patterns)
        return str(given)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_checkpoint("hf://someone/bars").folder == given
    assert open_checkpoint("hf://someone/bars@v2").folder == given
    assert asked == [("someone/bars", None), ("someone/bars", "v2")]


def test_without_a_network_one_line_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"^hf://someone/none cannot be fetched .*by hand") as told:
        hub.fetch("hf://someone/none")
    assert "\n" not in str(told.value)
    for address in ("hf://", "hf://one", "hf://a/b/c", "hf:///b"):
        with pytest.raises(ValueError, match="must be hf://USER/NAME"):
            hub.fetch(address)


def test_its_examples_become_the_records_that_it_was_trained_on(
    run_folder: Path, records_folder: Path, tmp_path: Path
) -> None:
    release(ReleaseConfig(str(run_folder), str(tmp_path / "bars"), examples=True))
    about = EncodedConfig(
        (str(tmp_path / "bars" / "examples.parquet"),),
        vqgan=str(tmp_path / "bars" / "vqgan"),
        tokenizer=str(tmp_path / "bars" / "tokenizer"),
        out=str(tmp_path / "records"),
        text_length=open_records(records_folder).text_length,
    )
    encoded.main(about)
    again, first = open_records(tmp_path / "records"), open_records(records_folder)
    rows = first.rows("train")
    np.testing.assert_array_equal(again.image_tokens, first.image_tokens[rows])
    starts, stops = first.caption_offsets[rows], first.caption_offsets[rows + 1]
    texts = [i for a, b in zip(starts, stops, strict=True) for i in range(a, b)]
    np.testing.assert_array_equal(again.text_tokens, first.text_tokens[texts])
    np.testing.assert_array_equal(again.caption_weights, first.caption_weights[texts])
    assert len(again.rows("train")) == len(rows)
