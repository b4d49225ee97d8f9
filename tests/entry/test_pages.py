"""The commands in README and docs/ are run. The five lines for own pictures run to their end; the
others run up to the first thing that a fresh clone lacks."""

import importlib
import re
import runpy
import shlex
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from command_line.parser import command, parse_config
from tests.entry.conftest import MODEL
from tests.test_readme import CONFIGS, PAGES, ROOT, commands

BEGUN = {
    "generate.py": "tests/entry/test_demo.py",
    "app.py": "tests/app/test_studio.py",
    "sweep.py": "tests/entry/test_sweep.py",
    "data.artists": "tests/data/test_artists.py",
    "data.composed": "tests/data/test_composing.py",
    "data.emoji": "tests/data/test_emoji.py",
    "vqgan.pretrained": "tests/vqgan/test_shipped.py",
    "experiments.footprint": "tests/experiments/test_footprint.py",
    "experiments.time_to_target": "tests/experiments/test_contest.py",
    "experiments.logbook": "tests/experiments/test_compare.py",
    "benchmarks.training": "tests/benchmarks/test_training.py",
    "benchmarks.sampling": "tests/benchmarks/test_benchmarks.py",
    "benchmarks.race.driver": "tests/benchmarks/test_race.py",
}
"""Program → the test file that runs it. These programs are not started here: a fresh clone has all
that they need, so they would begin long work."""
TINY = [
    f"--model.{name}={getattr(MODEL, name)}"
    for name in ("dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_dim", "grid_size")
]
SMALL = {
    "train.py": [
        *TINY,
        "--training.epochs=1",
        "--training.least_steps=0",
        "--training.batch_size=8",
        "--grids.every=0",
        "--choose_sampling=false",
        "--parallel.devices=1",
    ],
    "evaluate": ["--pictures=1"],
}


def split(line: str) -> tuple[str, list[str]]:
    """The program of a command, and its flags."""
    words = shlex.split(line.replace("$s", "0"))[1:]
    return (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])


def start(program: str, flags: list[str]) -> None:
    """Run the program in this process, as its command line does."""
    name = program.removesuffix(".py")
    module = importlib.import_module(name)
    main = getattr(module, "main", None) or getattr(module, name, None)
    if main is None:  # main exists only under __name__ == "__main__"
        with mock.patch("sys.argv", [program, *flags]):
            runpy.run_module(name, run_name="__main__")
        return
    with command(program):
        main(parse_config(getattr(module, CONFIGS[name]), flags))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of a fresh clone. It is the working directory, and Pastel finds no
    other clone: with records/ of one's own beside the tests, a command would begin to train."""
    for name in ("presets", "sweeps", "demo", "demo_large", "experiments", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "vqgan").mkdir()
    for name in ("general", "openmoji"):
        (tmp_path / "vqgan" / name).symlink_to(ROOT / "vqgan" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.clone.ROOT", tmp_path)
    return tmp_path


SHIPPED = "demo_large"
"""A model that a fresh clone has."""
WHOLE = [one for one in dict.fromkeys(commands()) if "/examples.parquet" in one]
"""Commands that end quickly in a fresh clone."""


def needing() -> list[str]:
    """Commands that need the results of earlier lines of their page."""
    lines = [line for line in dict.fromkeys(commands()) if line not in WHOLE]
    return [
        line
        for line in lines
        if split(line)[0] not in BEGUN
        or ("generate.py --checkpoint" in line and SHIPPED not in split(line)[1])
    ]


@pytest.mark.parametrize("line", WHOLE)
def test_a_command_that_has_all_it_needs_ends_well(line: str, clone: Path) -> None:
    program, flags = split(line)
    start(program, flags)
    out = Path(flags[flags.index("--out") + 1])
    assert (clone / out / "records.json").is_file()


@pytest.mark.parametrize("line", needing())
def test_a_command_before_its_time_names_what_is_missing(
    line: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, flags = split(line)
    with pytest.raises(SystemExit) as end:
        start(program, flags)
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()[-1]
    named = [part for word in flags for part in re.split(r"[=,\[\]:\"']+", word.lstrip("-"))]
    presets = [(ROOT / name).read_text() for name in named if name.startswith("presets/")]
    named += [w for text in presets for w in re.findall(r"records: (\S+)", text)]
    assert [name for name in named if len(name) > 3 and name in lines], lines


def test_the_five_lines_run_in_a_folder_of_pictures(
    clone: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's five lines run, with the tiny run in place of the demo."""
    (clone / "demo_large").unlink()
    (clone / "demo_large").symlink_to(run_folder)
    generator = np.random.default_rng(0)
    for number in range(60):
        picture = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = clone / "my_pictures" / f"group {number % 3}" / f"Tan_Bar-{number:02d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        path.with_suffix(".txt").write_text(f"tan bar {number}")
    (clone / "my_pictures" / "broken.png").write_bytes(b"\x89PNG")
    section = PAGES["README.md"].partition("in five lines")[2].partition("```sh\n")[2]
    lines = section.partition("```")[0].splitlines()
    assert lines[0].startswith("source ")
    assert [split(line)[0] for line in lines[1:]] == [
        *("data.encode", "train.py", "generate.py", "evaluate"),
    ]
    for line in lines[1:]:
        program, flags = split(line)
        start(program, [*flags, *SMALL.get(program, [])])
    output = "".join(capsys.readouterr())
    assert "broken.png" in output
    for name in ("drawn.png", "held_out.png"):
        assert (clone / "runs" / "mine" / name).is_file()
    assert len(list((clone / "runs" / "mine" / "drawn").glob("*.png"))) >= 2


def test_programs_that_begin_long_work_are_run_by_a_test() -> None:
    for path in BEGUN.values():
        assert (ROOT / path).is_file(), path
