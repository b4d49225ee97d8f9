"""The one command-line parser of every entry point: words and YAML files to frozen dataclasses.

It is the only file that knows jsonargparse.
"""

import argparse
import dataclasses
import difflib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jsonargparse
import yaml
from jsonargparse import set_loader, set_parsing_settings

import old_names
from terminal import command
from weights.yaml_files import SEVERAL, parse_yaml, plain_value, read_settings

T = TypeVar("T")
TEXTS = {"name", "prompts"}
"""Fields in which a ~ at the start is a letter, not a home."""
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
QUOTE = "put quotes around lists, globs and texts with spaces"


def _load(text: str) -> Any:
    """What one value of the command line says, within the bounds of files."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            pass  # YAML's lists need no quotes
    found = plain_value(parse_yaml(text))
    only_keys = isinstance(found, dict) and all(value is None for value in found.values())
    return text if only_keys else found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a key twice, which YAML's reader then names with its line."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


set_parsing_settings(docstring_parse_attribute_docstrings=True)
set_loader("yaml", _load, (ValueError, yaml.YAMLError))


class _OneLineParser(jsonargparse.ArgumentParser):
    """Raises ValueError with one line instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ValueError(" ".join(str(message).split()))


class _Several(argparse.Action):
    """Adds the words of each time the flag is given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        self.given = [*getattr(self, "given", []), *values]
        setattr(namespace, self.dest, list(self.given))


def parse_config(
    config_class: type[T],
    arguments: Sequence[str] | None = None,
    prog: str = "",
    about: str = "",
    is_saved: bool = False,
) -> T:
    """Read flags into `config_class`, over the files named by --config, of which later ones win.

    Fields with metadata {"nargs": "*"} take several words, and their flag may be given several
    times; any other may not. Those of the top level with {"positional": True} stand without a
    flag's name. A bool's flag alone means true. A trailing `=None`, as wandb's agent writes it,
    means null. A ~ at the start of a path is the home folder. A setting that has moved
    (old_names.py) is refused by its new name, or read with a line on stderr; `is_saved`: the files
    are of a run, in which every old name is read.

    Raises:
        ValueError: naming the flag and, for a misspelt one, the nearest that exists.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    fields: tuple[Any, ...] = dataclasses.fields(config_class)  # type: ignore[arg-type]
    facts = {f"--{one.name}" for one in fields if one.type is bool}
    words = [
        w[: -len("None")] + "null" if w.startswith("--") and w.endswith("=None") else w
        for w in (f"{w}=true" if w in facts else w for w in words)
    ]
    words, files = _take_files(words)
    moved = old_names.moved_in(config_class)
    words = _with_new_names(words, moved)
    several = _several(config_class)
    _check_once(words, several)
    parser = _parser(config_class, prog, about)
    _check_dashes(words, parser)
    for file in files:
        _set_defaults(parser, _read_file(file, config_class, moved, is_saved))
    try:
        values = parser.parse_args(_gather(words, {one for one in several if "." in one}))
    except ValueError as error:
        raise ValueError(_with_suggestion(str(error), parser)) from None
    try:
        tree = vars(parser.instantiate(values))
    except TypeError as error:
        raise ValueError(f"the configuration does not fit: {error}") from None
    _check_finite(tree)
    names = [one.name for one in fields]
    return _with_homes(
        config_class(**{n: tuple(tree[n]) if isinstance(tree[n], list) else tree[n] for n in names})
    )


def _parser(config_class: type, prog: str, about: str) -> jsonargparse.ArgumentParser:
    parser = _OneLineParser(prog=prog or None, description=about, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of settings, such as presets/*.yaml; flags override it",
    )
    special: dict[str, Any] = {f.name: f for f in dataclasses.fields(config_class) if f.metadata}
    parser.add_class_arguments(config_class, as_group=False, skip=set(special))
    for name, one in special.items():
        nargs = one.metadata["nargs"]
        about_it: dict[str, Any] = {"nargs": nargs, "help": one.metadata["help"]}
        if one.metadata.get("positional"):
            parser.add_argument(name, type=str, **about_it)
        else:
            about_it |= {"action": _Several} if nargs in SEVERAL else {}
            parser.add_argument(f"--{name}", type=str, default=list(one.default), **about_it)
    return parser


def _take_files(words: list[str]) -> tuple[list[str], list[Path]]:
    """The words without --config, and the files that it names."""
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
        files.append(Path(name).expanduser())
        if not files[-1].is_file():
            presets = (Path(__file__).parent / "presets").glob("*.yaml")
            known = ", ".join(sorted(f"presets/{p.name}" for p in presets))
            raise ValueError(f"no preset or config file {name!r}; there are: {known}")
    return others, files


def _read_file(
    file: Path, config_class: type, moved: dict[str, old_names.New], is_saved: bool
) -> dict[str, Any]:
    """The settings of a file by their new names."""
    kinds = {old: old_names.kind_of(config_class, new.name) for old, new in moved.items()}
    tree = read_settings(file, config_class, kinds)
    try:
        found = old_names.rename(tree, moved)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not is_saved:
        _tell_moved(found, f"{file}: ")
    return tree


def _with_new_names(words: list[str], moved: dict[str, old_names.New]) -> list[str]:
    """The words with the new names of the flags that have moved."""
    words, found = list(words), []
    for i, name in _flags(words):
        plain = name.removesuffix("+")
        if plain in moved:
            found.append(plain)
            words[i] = words[i].replace(f"--{plain}", f"--{moved[plain].name}", 1)
    _tell_moved(found)
    return words


def _tell_moved(found: list[str], where: str = "") -> None:
    """Raises ValueError for old names that are refused; names the others on stderr."""
    refused = [name for name in found if not old_names.MOVED[name].is_accepted]
    if refused:
        raise ValueError(f"{where}{old_names.describe(refused)}; use the new name")
    if found:
        print(f"{where}{old_names.describe(found)}; the old name is still read", file=sys.stderr)


def _several(config_class: type, prefix: str = "") -> set[str]:
    """Dotted names of the fields that take several values."""
    found: set[str] = set()
    hints = get_type_hints(config_class)
    for one in dataclasses.fields(config_class):
        if one.metadata.get("nargs") in SEVERAL:
            found.add(f"{prefix}{one.name}")
        elif dataclasses.is_dataclass(hints[one.name]):
            found |= _several(hints[one.name], f"{prefix}{one.name}.")
    return found


def _flags(words: list[str]) -> Iterator[tuple[int, str]]:
    """Where the flags stand, and their names."""
    for i, word in enumerate(words):
        if word == "--":
            return
        if word.startswith("--"):
            yield i, word[2:].partition("=")[0]


def _check_once(words: list[str], several: set[str]) -> None:
    """Raises ValueError for a flag that is given twice and takes one value: which one counts?"""
    names = [name for _, name in _flags(words) if name not in several and not name.endswith("+")]
    for name in names:
        if (count := names.count(name)) > 1:
            raise ValueError(
                f"--{name} is given {count} times and takes one value; give it once ({QUOTE})"
            )
    every = {name for _, name in _flags(words)}
    for name in sorted(every):
        if (
            section := next((one for one in every if name.startswith(f"{one}.")), None)
        ) is not None:
            raise ValueError(
                f"--{name} is a part of --{section}, which is given too; give the parts one by one"
            )


def _check_dashes(words: list[str], parser: jsonargparse.ArgumentParser) -> None:
    """Raises ValueError for a flag behind a dash of typography, as text programs and web pages
    write --: it would be one more prompt."""
    known = _options(parser)
    for word in words:
        name = "--" + word.partition("=")[0].lstrip(DASHES)
        if word[:1] in DASHES and word and name in known:
            raise ValueError(
                f"{word:.80} begins with another dash than the keyboard's; type {name}"
            )


def _options(parser: jsonargparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _gather(words: list[str], several: set[str]) -> list[str]:
    """Each flag of a section that takes several values once, with a list of all its values."""
    found: dict[str, list[str]] = {}
    left = list(words)
    for i, name in reversed(list(_flags(words))):
        if name in several:
            end = next((j for j, _ in _flags(words) if j > i), len(words))
            _, has_value, value = words[i].partition("=")
            given = [*([value] if has_value else []), *words[i + 1 : end]]
            found[name] = _listed(given) + found.get(name, [])
            del left[i:end]
    lists = [f"--{name}={json.dumps(v, ensure_ascii=False)}" for name, v in found.items()]
    return [*lists, *left]


def _listed(given: list[str]) -> list[str]:
    """The values of one flag: words, or a single list of them as a sweep's agent writes it."""
    if len(given) == 1 and given[0][:1] == "[" and not Path(given[0]).exists():
        try:
            found = _load(given[0])
        except ValueError:  # a glob such as [0-3].tar
            return given
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return found
    return given


def _set_defaults(parser: jsonargparse.ArgumentParser, tree: dict[str, Any]) -> None:
    def flat(part: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in part.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    parser.set_defaults(dict(flat(tree, "")))


def _check_finite(tree: Any, name: str = "") -> None:
    """Raises ValueError for a number that is none: `.nan` and `.inf` are floats to YAML."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {one.name: getattr(tree, one.name) for one in dataclasses.fields(tree)}
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_finite(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"{name} is {tree}; it must be a finite number")


def _with_homes(config: Any, prefix: str = "") -> Any:
    """The configuration with ~ and ~name at the start of its paths written out: a shell does so
    only at the start of a word, not behind --flag=. Raises ValueError for an empty path."""
    changed: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            new: Any = _with_homes(value, f"{prefix}{one.name}.")
        elif one.name in TEXTS:
            continue
        elif "" in (value, *(value if isinstance(value, tuple) else ())) and _needs_text(one):
            dashes = "" if one.metadata.get("positional") else "--"
            raise ValueError(f"{dashes}{prefix}{one.name} is empty; name something or leave it out")
        elif isinstance(value, tuple):
            new = tuple(_home(part) for part in value)
        else:
            new = _home(value)
        if new != value:
            changed[one.name] = new
    return dataclasses.replace(config, **changed) if changed else config


def _needs_text(one: dataclasses.Field[Any]) -> bool:
    """Whether a field has no use for an empty text, as `--out=$UNSET` gives it: a path of no
    letters would be the working folder."""
    return one.default not in ("", None)


def _home(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) and value[:1] == "~" else value


def _with_suggestion(message: str, parser: jsonargparse.ArgumentParser) -> str:
    _, unknown, words = message.partition("unrecognized arguments: ")
    if not unknown:
        return message
    if not words.startswith("-"):
        return f"{words:.200} stands after no flag that takes it; {QUOTE}"
    flag = words.split()[0].partition("=")[0]
    near = difflib.get_close_matches(flag, _options(parser), n=1, cutoff=0.5)
    return f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else "; see --help")


def run(main: Callable[[T], Any], config_class: type[T], prog: str, about: str) -> None:
    """Parse the command line, call `main`; a user's mistake is one line on stderr, exit code 2."""
    with command(prog):
        main(parse_config(config_class, prog=prog, about=about))
