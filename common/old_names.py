"""Renamed settings, as a table, for the parser and for run folders."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.settings import Setting, settings_of


@dataclass(frozen=True)
class New:
    """The new name of a setting."""

    name: str
    is_accepted: bool = False
    """True if the old name still works on the command line and in files, with a line on stderr,
    because other people's scripts use it. Otherwise it is refused, and the message has the new
    name."""


MOVED = {
    "training.caption_dropout": New("loss.caption_dropout"),
    "training.token_noise": New("loss.token_noise"),
    "training.caption_only": New("loss.caption_only"),
    "training.label_smoothing": New("loss.label_smoothing", is_accepted=True),
    "training.z_loss": New("loss.z_loss", is_accepted=True),
    "training.grid_prompts": New("grids.prompts", is_accepted=True),
    "training.grid_every": New("grids.every", is_accepted=True),
    "optim.factored_from": New("optim.adafactor.factored_from"),
}
"""Old dotted name → new one. The config.yaml of an older run is read with all rows."""


def moved_in(config_class: type) -> dict[str, Setting]:
    """Old name → setting, for the settings of `config_class`."""
    settings = {setting.name: setting for setting in settings_of(config_class)}
    return {old: settings[new.name] for old, new in MOVED.items() if new.name in settings}


def rename(tree: dict[str, object], moved: Mapping[str, Setting]) -> list[str]:
    """Give the settings of a tree their new names, in place. Returns the old names that it had.

    Raises:
        ValueError: the tree has a setting under both of its names.
    """
    renamed = []
    for old, new in moved.items():
        *sections, name = old.split(".")
        part: Any = tree
        for section in sections:
            part = part.get(section) if isinstance(part, dict) else None
        if not isinstance(part, dict) or name not in part:
            continue
        value = part.pop(name)
        *sections, name = new.name.split(".")
        part = tree
        for section in sections:
            part = part.setdefault(section, {})
        if name in part:
            raise ValueError(f"{old} and {new.name} are two names of one setting; keep {new.name}")
        part[name] = value
        renamed.append(old)
    return renamed


def describe(names: list[str]) -> str:
    """A text such as "training.z_loss is now loss.z_loss"."""
    return ", ".join(f"{old} is now {MOVED[old].name}" for old in names)


def current(command: str) -> str:
    """A command with the new names of the flags that have moved."""
    return re.sub(
        r"(?<!\S)--([\w.]+)(?=[=\s]|$)",
        lambda flag: f"--{MOVED[flag[1]].name}" if flag[1] in MOVED else flag[0],
        command,
    )


def is_old_name_of(pattern: str, name: str) -> bool:
    """True if a pattern of names, as of allow_changes, is the old name of a setting."""
    return pattern in MOVED and MOVED[pattern].name == name
