"""Settings as plain trees and as YAML, and checks for every configuration; any package may import
this file."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import yaml

SettingsTree = dict[str, Any]
"""Settings as nested dicts of plain values, as in config.yaml."""


@dataclass(frozen=True)
class Setting:
    """A field of a configuration, or of a section in it."""

    name: str
    """The dotted name, such as optim.learning_rate."""
    kind: Any
    field: dataclasses.Field[Any]
    owner: type
    """The dataclass that has the field."""

    @property
    def is_section(self) -> bool:
        """True if it holds settings itself."""
        return dataclasses.is_dataclass(self.kind)


def settings_of(config_class: type, prefix: str = "") -> Iterator[Setting]:
    """Yield every field of a configuration's class; a section comes before its fields."""
    kinds = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        setting = Setting(f"{prefix}{field.name}", kinds[field.name], field, config_class)
        yield setting
        if setting.is_section:
            yield from settings_of(setting.kind, f"{setting.name}.")


def check_least(config: object, prefix: str, least: int, *names: str) -> None:
    """Raise ValueError if a setting of the section `prefix` is below `least`."""
    for name in names:
        if getattr(config, name) < least:
            limit = f"must be at least {least}" if least else "cannot be negative"
            dotted = f"{prefix}.{name}" if prefix else name
            raise ValueError(f"{dotted} {limit}, not {getattr(config, name)}")


def check_multiple(name: str, number: int, of: str, part: int) -> None:
    """Raise ValueError if `number` is not a multiple of `part`."""
    if number % part:
        nearest = max(number // part, 1) * part
        tries = f"; try {name.rpartition('.')[2]} {nearest}"
        raise ValueError(f"{name} {number} is not a multiple of {of} {part}{tries}")


def check_float32(training: object, trainer: str, *names: str) -> None:
    """Raise ValueError if one of these precisions is not float32, the only one of a trainer."""
    for name in names:
        if (dtype := getattr(training, name)) != "float32":
            raise ValueError(
                f"training.{name} {dtype} is for train.py; {trainer} has float32 only: use "
                f"--training.{name}=float32"
            )


def to_tree(config: Any) -> SettingsTree:
    """A configuration as nested dicts of plain values."""
    return dataclasses.asdict(config)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """Dotted name → value, of settings that are nested by section."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def to_yaml(config: object) -> str:
    """A configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(_plain(to_tree(config)), sort_keys=False)


def _plain(tree: object) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return [_plain(v) for v in tree] if isinstance(tree, list | tuple) else tree
