"""Settings that were renamed: each is refused with its new name, or read; none is lost."""

import dataclasses
from pathlib import Path

import pytest

from command_line.parser import parse_config
from common import old_names
from common.old_names import MOVED
from common.settings import Setting, settings_of, to_tree, to_yaml
from config import Config, from_yaml
from training.saved import runs
from vqgan.run_config import VQGANRunConfig

OLD_RUN = """
optim: {name: adafactor, factored_from: 64}
training:
  steps: 7
  caption_dropout: 0.2
  token_noise: 0.3
  caption_only: 0.4
  label_smoothing: 0.1
  z_loss: 0.01
  grid_prompts: [a, b]
  grid_every: 3
"""
REFUSED = sorted(old for old, new in MOVED.items() if not new.is_accepted)
ACCEPTED = sorted(old for old, new in MOVED.items() if new.is_accepted)
VALUES = {"training.grid_prompts": "[a]", "training.grid_every": "5"}


def setting(config: Config, name: str) -> object:
    value: object = to_tree(config)
    for part in name.split("."):
        assert isinstance(value, dict)
        value = value[part]
    return value


def file_with(folder: Path, name: str) -> Path:
    section, key = name.rsplit(".", 1)
    path = folder / "old.yaml"
    path.write_text(f"{section}: {{{key}: {VALUES.get(name, '0.25')}}}\n")
    return path


@pytest.mark.parametrize("old", sorted(MOVED))
def test_every_row_names_a_setting_that_is_there_and_none_that_is(old: str) -> None:
    names = {setting.name for setting in settings_of(Config)}
    assert MOVED[old].name in names
    assert old not in names


@pytest.mark.parametrize("old", REFUSED)
def test_an_old_name_is_refused_by_its_new_one(old: str, tmp_path: Path) -> None:
    says = f"{old} is now {MOVED[old].name}; use the new name".replace(".", r"\.")
    for words in ([f"--{old}=0.5"], [f"--{old}", "0.5"]):
        with pytest.raises(ValueError, match=f"^{says}$"):
            parse_config(Config, words)
    path = file_with(tmp_path, old) if old != "optim.factored_from" else tmp_path / "old.yaml"
    if old == "optim.factored_from":
        path.write_text("optim: {factored_from: 4}\n")
    with pytest.raises(ValueError, match=f"^{path}: {says}$"):
        parse_config(Config, [f"--config={path}"])


@pytest.mark.parametrize("old", ACCEPTED)
def test_an_old_name_that_scripts_use_is_read_with_a_line(
    old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, new = VALUES.get(old, "0.25"), MOVED[old].name
    expected = setting(parse_config(Config, [f"--{new}={value}"]), new)
    assert capsys.readouterr().err == ""
    path = file_with(tmp_path, old)
    for words in ([f"--{old}={value}"], [f"--{old}", value], [f"--config={path}"]):
        assert setting(parse_config(Config, words), new) == expected
        output = capsys.readouterr().err
        assert f"{old} is now {new}" in output
        assert output.count("\n") == 1


def test_an_old_name_in_a_section_on_the_command_line_is_refused() -> None:
    for words in (['--training={"grid_every": 3}'], ["--training", '{"grid_every": 3}']):
        with pytest.raises(ValueError, match=r"training\.grid_every is now grids\.every; use"):
            parse_config(Config, words)
    assert parse_config(Config, ['--training={"steps": 3}']).training.steps == 3


def test_both_names_of_a_setting_are_not_given_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--grids\.every is given 2 times"):
        parse_config(Config, ["--grids.every=1", "--training.grid_every=2"])
    path = tmp_path / "both.yaml"
    path.write_text("training: {grid_every: 1}\ngrids: {every: 1}\n")
    with pytest.raises(ValueError, match=r"two names of one setting; keep grids\.every"):
        parse_config(Config, [f"--config={path}"])


def test_a_flag_goes_before_a_file_by_either_name(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("base: &b {grid_every: 4}\n".replace("base: ", "training: "))
    for flag in ("--grids.every=9", "--training.grid_every=9"):
        assert parse_config(Config, [f"--config={path}", flag]).grids.every == 9


def test_a_command_that_is_quoted_has_the_new_names() -> None:
    old = "--config x.yaml --training.grid_every=2 --training.grid_every 3 --x.training.grid_every"
    new = "--config x.yaml --grids.every=2 --grids.every 3 --x.training.grid_every"
    assert old_names.current(old) == new


def test_merged_settings_move_too(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("training: {<<: {grid_every: 4, steps: 3}, steps: 5}\n")
    found = parse_config(Config, [f"--config={path}"])
    assert (found.grids.every, found.training.steps) == (4, 5)


def test_a_value_of_a_wrong_type_is_reported_by_the_name_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("training: {grid_every: often}\n")
    with pytest.raises(ValueError, match=r"training\.grid_every must be a whole number"):
        parse_config(Config, [f"--config={path}"])


def test_a_row_holds_only_where_the_new_setting_is() -> None:
    assert parse_config(VQGANRunConfig, ["--training.grid_every=5"]).grids.every == 5
    with pytest.raises(ValueError, match=r"unknown flag --training\.z_loss"):
        parse_config(VQGANRunConfig, ["--training.z_loss=5"])


def test_a_run_of_before_is_read_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(OLD_RUN)
    found = from_yaml(Config, path)
    assert capsys.readouterr().err == ""
    assert to_tree(found.loss) == {
        "caption_dropout": 0.2,
        "token_noise": 0.3,
        "caption_only": 0.4,
        "near_codes": 0.0,
        "label_smoothing": 0.1,
        "z_loss": 0.01,
    }
    assert to_tree(found.grids) == {"every": 3, "prompts": ("a", "b")}
    assert (found.training.steps, found.optim.adafactor.factored_from) == (7, 64)
    path.write_text(to_yaml(found))
    assert from_yaml(Config, path) == found


def test_allow_changes_knows_a_setting_by_its_old_name() -> None:
    changes: runs.Changes = {"loss.label_smoothing": (0.0, 0.1)}
    assert runs.refused(changes, ["training.label_smoothing"]) == {}
    assert runs.refused(changes, ["training.z_loss", "training.*"]) == changes


def test_a_setting_may_move_between_any_sections() -> None:
    tree = {"a": {"x": 1, "y": 2}, "b": 3}
    names = {"a.x": "c.d.z", "b": "a.b", "a.none": "e"}
    field = dataclasses.fields(Config)[0]
    moved = {old: Setting(new, int, field, Config) for old, new in names.items()}
    assert old_names.rename(tree, moved) == ["a.x", "b"]
    assert tree == {"a": {"y": 2, "b": 3}, "c": {"d": {"z": 1}}}
