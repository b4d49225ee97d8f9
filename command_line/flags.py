"""Prepares the words of a command line for the parser: files, old names, repeated flags."""

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from command_line.yaml_settings import SEVERAL, read_settings
from common import clone, old_names
from common.settings import Setting, settings_of

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
QUOTE = "put quotes around lists, globs and texts with spaces"
EITHER = {"training.steps": 0, "training.epochs": 0.0}
"""Settings that exclude each other, with their neutral values. A flag for one resets the other."""
TRACKERS = ("_wandb", "wandb_version")
"""Flags that wandb's agent adds, with its own notes, when it resumes a run of a sweep."""
_TIME = re.compile(r"\s*[-+]?[\d_]+(:[\d_.]+)+\s*")
Load = Callable[[str], Any]
"""One word of the command line → the parsed value."""


def take_files(words: list[str]) -> tuple[list[str], list[Path]]:
    """(the words without --config, the files of --config)."""
    others: list[str] = []
    files: list[Path] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*others, word, *rest], files
        flag, has_value, name = word.partition("=")
        if flag != "--config":
            others.append(word)
            continue
        name = name if has_value else next(rest, "")
        files.append(clone.find(os.path.expanduser(name)))
        if not files[-1].is_file():
            presets = (clone.ROOT / "presets").glob("*.yaml")
            known = ", ".join(sorted(f"presets/{p.name}" for p in presets))
            raise ValueError(f"no preset or config file {name!r}; there are: {known}")
    return others, files


def without_trackers(words: list[str]) -> list[str]:
    """The words without the flags of TRACKERS, which are named on stderr."""
    left, rest = list[str](), iter(words)
    for word in rest:
        name, has_value, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in TRACKERS:
            left.append(word)
            continue
        if not has_value:
            next(rest, None)
        print(f"--{name} is not read: wandb's agent notes its own version in it", file=sys.stderr)
    return left


def read_file(
    file: Path, config_class: type, moved: Mapping[str, Setting], is_saved: bool = False
) -> dict[str, Any]:
    """The settings of a file under their new names. Old names are printed, unless `is_saved`."""
    tree = read_settings(file, config_class, {old: new.kind for old, new in moved.items()})
    try:
        old_in_file = old_names.rename(tree, moved)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not is_saved:
        _print_old_names(old_in_file, f"{file}: ")
    return tree


def with_new_names(words: list[str], moved: Mapping[str, Setting], load: Load) -> list[str]:
    """The words with the new names of renamed flags.

    Raises:
        ValueError: an old name is refused, or is inside a section that is given as a whole.
    """
    words, old_in_words = list(words), []
    for i, name in _flags(words):
        plain = name.removesuffix("+")
        if plain in moved:
            old_in_words.append(plain)
            words[i] = words[i].replace(f"--{plain}", f"--{moved[plain].name}", 1)
        elif any(old.startswith(f"{plain}.") for old in moved):
            value = words[i].partition("=")[2] or "".join(words[i + 1 : i + 2])
            section = load(value) if value[:1] == "{" else {}
            if old := [old for old in moved if old.removeprefix(f"{plain}.") in section]:
                raise ValueError(f"{old_names.describe(old)}; use the new name")
    _print_old_names(old_in_words)
    return words


def _print_old_names(old: list[str], where: str = "") -> None:
    """Print the old names on stderr. Raises ValueError for those that are refused."""
    refused = [name for name in old if not old_names.MOVED[name].is_accepted]
    if refused:
        raise ValueError(f"{where}{old_names.describe(refused)}; use the new name")
    if old:
        print(f"{where}{old_names.describe(old)}; the old name is still read", file=sys.stderr)


def several_valued(config_class: type) -> set[str]:
    """Dotted names of the settings that take several words."""
    settings = settings_of(config_class)
    return {setting.name for setting in settings if setting.field.metadata.get("nargs") in SEVERAL}


def _flags(words: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (index, name) of each flag."""
    for i, word in enumerate(words):
        if word == "--":
            return
        if word.startswith("--"):
            yield i, word[2:].partition("=")[0]


def flag_names(words: list[str]) -> set[str]:
    """The names of the flags among the words."""
    return {name for _, name in _flags(words)}


def resets(given: Collection[str], known: Collection[str]) -> dict[str, Any]:
    """Setting → neutral value, for each setting of EITHER that is not given while the other is."""
    if not EITHER.keys() & set(given):
        return {}
    return {name: zero for name, zero in EITHER.items() if name not in given and name in known}


def check_once(words: list[str], several: set[str]) -> None:
    """Raise ValueError if a flag that takes one value is given twice."""
    names = [name for _, name in _flags(words) if name not in several and not name.endswith("+")]
    for name in names:
        if (count := names.count(name)) > 1:
            raise ValueError(
                f"--{name} is given {count} times and takes one value; give it once ({QUOTE})"
            )
    every = {name for _, name in _flags(words)}
    for name in sorted(every):
        if (
            section := next(
                (section_name for section_name in every if name.startswith(f"{section_name}.")),
                None,
            )
        ) is not None:
            raise ValueError(
                f"--{name} is a part of --{section}, which is given too; give the parts one by one"
            )


def check_dashes(words: list[str], known: set[str]) -> None:
    """Raise ValueError for a flag with a typographic dash, which word processors and web pages
    write in place of --; it would be read as a prompt. `known` holds the names of all flags."""
    for word in words:
        name = word.partition("=")[0].lstrip(DASHES)
        if word[:1] in DASHES and word and name in known:
            raise ValueError(
                f"{word:.80} begins with another dash than the keyboard's; type --{name}"
            )


def check_no_times(words: list[str], kinds: Mapping[str, object]) -> None:
    """Raise ValueError for 1:30 as the value of a number, which YAML 1.1 reads as 90. `kinds`
    holds the types of all settings."""
    for i, name in _flags(words):
        _, has_value, value = words[i].partition("=")
        value = value if has_value else "".join(words[i + 1 : i + 2])
        if kinds.get(name) in (int, float) and _TIME.fullmatch(value):
            raise ValueError(f"--{name} must be a number, not {value!r:.60}")


def join_repeated(words: list[str], several: set[str], load: Load) -> list[str]:
    """The words, where each flag in `several` occurs once, with a list of all its values."""
    values: dict[str, list[str]] = {}
    left = list(words)
    for i, name in reversed(list(_flags(words))):
        if name in several:
            end = next((j for j, _ in _flags(words) if j > i), len(words))
            _, has_value, value = words[i].partition("=")
            given = [*([value] if has_value else []), *words[i + 1 : end]]
            values[name] = _listed(given, load) + values.get(name, [])
            del left[i:end]
    lists = [f"--{name}={json.dumps(v, ensure_ascii=False)}" for name, v in values.items()]
    return [*lists, *left]


def _listed(given: list[str], load: Load) -> list[str]:
    """The values of one flag: its words, or the list in its only word, as sweep agents write it."""
    if len(given) == 1 and given[0][:1] == "[" and not Path(given[0]).exists():
        try:
            value = load(given[0])
        except ValueError:  # a glob such as [0-3].tar
            return given
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return value
    return given
