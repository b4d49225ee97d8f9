"""Every preset parses, resolves to its file in tests/golden/, and its header says how to run it.

After an intended change of presets or defaults: python -m tests.test_presets
"""

import shlex
from pathlib import Path

import pytest

from command_line.parser import parse_config
from common.settings import to_yaml
from config import Config
from vqgan.run_config import VQGANRunConfig

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
PROGRAMS = {"python train.py": Config, "python -m vqgan.train": VQGANRunConfig}
of_each_preset = pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)


def command_in_header(path: Path) -> tuple[type, list[str]]:
    """The configuration class and the flags of the command in the preset's header."""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        for program, config_class in PROGRAMS.items():
            _, found, flags = line.partition(f"{program} ")
            if found and f"presets/{path.name}" in flags:
                return config_class, shlex.split(flags)
    raise AssertionError(f"the header of {path} has no command with --config presets/{path.name}")


def resolved(path: Path) -> str:
    return to_yaml(parse_config(command_in_header(path)[0], [f"--config={path}"]))


@of_each_preset
def test_a_preset_means_what_its_golden_file_says(path: Path) -> None:
    golden = GOLDEN / path.name
    assert golden.is_file(), f"no {golden}; write it with: python -m tests.test_presets"
    assert resolved(path) == golden.read_text(), "meant? then: python -m tests.test_presets"


def test_no_golden_file_is_left_over() -> None:
    assert {p.name for p in GOLDEN.glob("*.yaml")} == {p.name for p in PRESETS}


@of_each_preset
def test_the_command_in_the_header_works(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config_class, flags = command_in_header(path)
    assert parse_config(config_class, flags).name == path.stem


@of_each_preset
def test_a_resolved_preset_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved(path))
    config_class = command_in_header(path)[0]
    assert to_yaml(parse_config(config_class, [f"--config={saved}"])) == saved.read_text()


@of_each_preset
@pytest.mark.parametrize("wrong", ["modle:\n  dim: 8\n", "training:\n  stesp: 8\n"])
def test_a_key_that_does_not_exist_is_refused(path: Path, wrong: str, tmp_path: Path) -> None:
    other = tmp_path / "wrong.yaml"
    other.write_text(wrong)
    with pytest.raises(ValueError, match="modle|stesp"):
        parse_config(command_in_header(path)[0], [f"--config={path}", f"--config={other}"])


def write_golden_files() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for path in PRESETS:
        (GOLDEN / path.name).write_text(resolved(path))
        print(GOLDEN / path.name)


if __name__ == "__main__":
    write_golden_files()
