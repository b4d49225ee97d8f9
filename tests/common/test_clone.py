"""Files of the clone are found from any working directory."""

from pathlib import Path

import pytest

from app import AppConfig
from command_line.parser import parse_config
from common import clone
from config import Config
from data.check import CheckConfig
from data.encoded import EncodedConfig
from data.encoding.config import EncodeConfig, check_settings
from data.mixture import first_folder
from data.records import open_records
from drawing.opening import open_checkpoint, parts_of
from drawing.ranking import open_ranker
from generate import GenerateConfig
from model import pretrained
from sweep import SweepConfig
from tests.source_tree import ROOT
from training.saved.branching import find_step
from trials.sweep_file import read_sweep
from vqgan import pretrained as vqgans


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_path_is_as_given_or_else_the_clones(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clone.find("demo/config.json") == ROOT / "demo" / "config.json"
    assert clone.find("presets") == ROOT / "presets"
    for as_given in ("nowhere/to/be/found", "../demo", f"{elsewhere}/demo", "x" * 5000):
        assert clone.find(as_given) == Path(as_given)
    assert capsys.readouterr().err == ""


def test_a_path_that_names_two_things_is_reported_once(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "sweeps").mkdir()
    assert clone.find("sweeps") == clone.find(Path("sweeps")) == Path("sweeps")
    message = f"sweeps here is taken; the clone's own is {ROOT / 'sweeps'}\n"
    assert capsys.readouterr().err == message


def test_in_the_clone_no_path_names_two_things(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert clone.find("results") == Path("results")
    assert capsys.readouterr().err == ""


def test_the_demo_is_opened_with_its_parts() -> None:
    assert AppConfig().checkpoint == GenerateConfig().checkpoint == "demo_large"
    found = open_checkpoint("demo_large")
    parts = parts_of(found, "demo/tokenizer", "vqgan/general")
    assert found.folder == ROOT / "demo_large"
    assert (parts.tokenizer, parts.vqgan) == (ROOT / "demo/tokenizer", ROOT / "vqgan/general")
    assert parts_of(found).vqgan == ROOT / "demo_large" / "vqgan"


def test_the_vqgans_are_opened() -> None:
    assert (
        EncodeConfig(source=("x",)).vqgan == EncodedConfig(tables=("x",)).vqgan == "vqgan/general"
    )
    config = clone.with_found(EncodeConfig(source=("x",)), "vqgan", "tokenizer")
    assert (config.vqgan, config.tokenizer) == (str(ROOT / "vqgan/general"), None)
    check_settings(config)
    assert vqgans.load("vqgan/general")[0].codebook_size == 4096


def test_presets_and_sweeps_are_read() -> None:
    assert parse_config(Config, ["--config", "presets/quickstart.yaml"]).name == "quickstart"
    assert read_sweep(clone.find("sweeps/learning_rate.yaml")).path.is_file()


def test_a_sweep_of_the_clone_starts_its_program(elsewhere: Path) -> None:
    import sweep

    (elsewhere / "one.yaml").write_text(
        "program: train.py\nmethod: grid\nparameters:\n  seed: {values: [0]}\n"
        "  optim.nothing: {value: 1}\n"
    )
    with pytest.raises(ValueError, match="unknown flag --optim.nothing"):  # so train.py was found
        sweep.main(SweepConfig(file="one.yaml"))


@pytest.mark.parametrize("name", ["records/mine", "runs/clip", "runs/base", "a/release"])
def test_folders_made_in_the_clone_are_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fails at the first file that an empty folder lacks, and names it."""
    monkeypatch.setattr(clone, "ROOT", tmp_path / "clone")
    folder = tmp_path / "clone" / name
    folder.mkdir(parents=True)
    for read in (open_records, open_ranker, vqgans.load, pretrained.load, find_step_of):
        with pytest.raises((ValueError, OSError), match=str(folder)):
            read(name)
    assert first_folder(f"[{name}:2,other:1]") == str(folder)
    assert CheckConfig().records == ("records/things",)


def find_step_of(name: str) -> object:
    return find_step(clone.find(name))
