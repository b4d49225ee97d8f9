"""The command-line parser of all commands: flags and YAML files → frozen dataclasses.

It is the only file that uses jsonargparse.
"""

import argparse
import copy
import dataclasses
import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml
from jsonargparse import Namespace, set_loader, set_parsing_settings

from command_line import flags, help_page
from command_line.yaml_settings import SEVERAL
from common import old_names
from common.json_files import without_repeats
from common.settings import Setting, flatten, settings_of
from common.terminal import command
from weights.yaml_files import parse_yaml, plain_value

T = TypeVar("T")
TEXTS = {"name", "prompts"}
"""Fields in which a ~ at the start is text, not the home folder."""


def _load(text: str) -> Any:
    """The parsed value of one word of the command line, with the same bounds as files."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text, object_pairs_hook=without_repeats)
        except (ValueError, RecursionError):
            pass  # YAML's lists need no quotes
    content = plain_value(parse_yaml(text))
    only_keys = isinstance(content, dict) and all(value is None for value in content.values())
    return text if only_keys else content


MOST_INT, MOST_FLOAT = (1 << 62) - 1, 3.4028235e38
"""The largest settings: floats are computed with in 32 bits."""
_OF_TYPE = re.compile(
    r'Parser key "([^"]+)": Expected a <class \'(\w+)\'>\. Got value:(.*)', re.DOTALL
)
_OF_TYPE_OR_NONE = re.compile(
    r"Parser key \"([^\"]+)\": Does not validate against any of the Union subtypes Subtypes: "
    r"\[<class '(\w+)'>, <class 'NoneType'>\] .* Given value:(.*)",
    re.DOTALL,
)
_OF_WORDS = re.compile(
    r"Parser key \"([^\"]+)\": Expected a typing\.Literal\[(.*)\]\. Got value:(.*)", re.DOTALL
)
_OF_WORDS_OR_NONE = re.compile(
    r"Parser key \"([^\"]+)\": Does not validate against any of the Union subtypes Subtypes: "
    r"\[typing\.Literal\[([^]]*)\], <class 'NoneType'>\] .* Given value:(.*)",
    re.DOTALL,
)
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list"}

set_loader("yaml", _load, (ValueError, yaml.YAMLError))


class _OneLineParser(jsonargparse.ArgumentParser):
    """Raises ValueError with one line instead of the usage; --help begins with `opening`."""

    opening = ""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return self.opening + super().format_help(formatter).replace(" \b[", "[")

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ValueError(" ".join(str(message).split()))


class _Several(argparse.Action):
    """Collects the words of a flag that is given several times."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest, None) or []), *values])


def parse_config(
    config_class: type[T],
    arguments: Sequence[str] | None = None,
    prog: str = "",
    about: str = "",
    first: Sequence[str] = (),
    is_saved: bool = False,
) -> T:
    """The configuration from flags and from the files of --config. Flags override files, later
    files override earlier ones.

    - Fields with metadata {"nargs": "*"} take several words; their flag may be given several times.
    - Top-level fields with {"positional": True} have no flag name.
    - The flag of a bool without a value means true. A trailing `=None`, as wandb's agent writes it,
      means null. A ~ at the start of a path is the home folder.
    - A file or flag that sets one of the two settings in flags.EITHER resets the other.
    - A renamed setting (common/old_names.py) is refused with its new name, or read with a line on
      stderr.
      With `is_saved`, the files are a run's, and every old name is read.

    Raises:
        ValueError: the message names the flag and, for a misspelt one, the nearest known flag.
    """
    settings, moved = list(settings_of(config_class)), old_names.moved_in(config_class)
    words, files = _prepare(config_class, arguments, settings, moved)
    names = [setting.name for setting in settings]
    from_files: dict[str, Any] = {}
    for file in files:
        values = flatten(flags.read_file(file, config_class, moved, is_saved))
        from_files |= values | flags.resets(values, names)
    resets = flags.resets(flags.flag_names(words), names)
    words = [*(f"--{name}={value}" for name, value in resets.items()), *words]
    is_help = not {"-h", "--help"}.isdisjoint(words)
    parser, defaults = _parser(config_class, is_help)  # type: ignore[arg-type]  # to mypy no class is Hashable
    positional = {s.name for s in settings if s.field.metadata.get("positional")}
    if is_help or positional & from_files.keys():
        parser = copy.deepcopy(parser)  # its defaults change
        parser.opening = help_page.first_screen(config_class, prog, about, first)
        parser.set_defaults(from_files)
    try:
        several = {name for name in flags.several_valued(config_class) if "." in name}
        words = flags.join_repeated(words, several, _load)
        required = {s.name for s in settings if help_page.is_required(s)}
        parsed = _parse(parser, defaults, from_files, required, words)
    except ValueError as error:
        leaves = [setting.name for setting in settings if not setting.is_section]
        raise ValueError(_with_suggestion(_in_words(str(error)), ["config", *leaves])) from None
    return _with_homes(_build(config_class, parser, parsed))


def _prepare(
    config_class: type,
    arguments: Sequence[str] | None,
    settings: Sequence[Setting],
    moved: Mapping[str, Setting],
) -> tuple[list[str], list[Path]]:
    """(the words of the command line as the parser reads them, the files of --config). `moved`: old
    name → setting. Raises ValueError for words that jsonargparse would misread."""
    words = _as_yaml(sys.argv[1:] if arguments is None else arguments, config_class)
    words, files = flags.take_files(flags.without_trackers(words))
    words = flags.with_new_names(words, moved, _load)
    flags.check_once(words, flags.several_valued(config_class))
    flags.check_dashes(words, {"config", "help", *(setting.name for setting in settings)})
    flags.check_no_times(words, {setting.name: setting.kind for setting in settings})
    return words, files


def _build(config_class: type[T], parser: _OneLineParser, parsed: Namespace) -> T:
    """The configuration of parsed values. Raises ValueError if they do not fit together."""
    try:
        tree = vars(parser.instantiate(parsed))
    except TypeError as error:
        raise ValueError(f"the configuration does not fit: {error}") from None
    values = {field.name: tree[field.name] for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    config = config_class(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
    _check_numbers(config)
    return config


def _parse(
    parser: _OneLineParser,
    defaults: Namespace,
    from_files: dict[str, Any],
    required: set[str],
    words: list[str],
) -> Namespace:
    """Defaults, overridden by the values of files by dotted name, overridden by words. jsonargparse
    would join them, too, but checks all values at each call, in ten times the time; the values of
    files have the types of their fields."""
    named = flags.flag_names(words)
    prints_all = "print_config" in named
    start, parsed = Namespace(), defaults.clone()
    for name, value in from_files.items():
        parsed[name] = tuple(value) if isinstance(value, list) else value
        # A flag of several words would add to the file's.
        if prints_all or (name in required and name not in named):
            start[name] = value
    parsed.update(parser.parse_args(words, namespace=start, defaults=prints_all))
    return parsed


def _as_yaml(words: Sequence[str], config_class: type) -> list[str]:
    """The words with a value for the flag of each bool, and null in place of None."""
    fields = dataclasses.fields(config_class)
    switches = {f"--{field.name}" for field in fields if field.type is bool}
    return [
        w[: -len("None")] + "null" if w.startswith("--") and w.endswith("=None") else w
        for w in (f"{w}=true" if w in switches else w for w in words)
    ]


@functools.cache
def _parser(config_class: type, is_help: bool) -> tuple["_OneLineParser", Namespace]:
    """The parser of a class's settings, and their defaults. Only for --help their docstrings are
    read, which takes longer than all the rest."""
    set_parsing_settings(docstring_parse_attribute_docstrings=is_help)
    parser = _OneLineParser(usage=argparse.SUPPRESS, allow_abbrev=False)
    parser.add_argument("--config", action="config", help=help_page.CONFIG)
    special: dict[str, Any] = {f.name: f for f in dataclasses.fields(config_class) if f.metadata}
    parser.add_class_arguments(config_class, as_group=False, skip=set(special))
    for name, field in special.items():
        nargs = field.metadata["nargs"]
        options: dict[str, Any] = {"nargs": nargs, "help": field.metadata["help"]}
        if field.metadata.get("positional"):
            options |= {"default": list(field.default)} if nargs == "*" else {}
            parser.add_argument(name, type=str, **options)
        else:
            options |= {"action": _Several} if nargs in SEVERAL else {}
            parser.add_argument(f"--{name}", type=str, default=list(field.default), **options)
    return parser, parser.get_defaults()


def _check_numbers(tree: object, name: str = "") -> None:
    """Raise ValueError for `.nan` and `.inf`, which are floats to YAML, and for numbers that would
    be infinite in 32 bits, or do not fit 64 bits."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"{name} is {tree}; it must be a finite number")
    elif isinstance(tree, float) and abs(tree) > MOST_FLOAT:
        raise ValueError(f"{name} is {tree}; numbers of 32 bits end at {MOST_FLOAT:g}")
    elif isinstance(tree, int) and abs(tree) > MOST_INT:
        raise ValueError(f"{name} is {tree:,}; it must be at most {MOST_INT:,}")


def _with_homes(config: Any, prefix: str = "") -> Any:
    """The configuration with ~ and ~name at the start of its paths expanded: a shell does so only
    at the start of a word, not after --flag=. Raises ValueError for an empty path."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            new: Any = _with_homes(value, f"{prefix}{field.name}.")
        elif field.name in TEXTS:
            continue
        elif "" in (value, *(value if isinstance(value, tuple) else ())) and _needs_text(field):
            dashes = "" if field.metadata.get("positional") else "--"
            raise ValueError(f"{dashes}{prefix}{field.name} is empty; name something or omit it")
        elif isinstance(value, tuple):
            new = tuple(_home(part) for part in value)
        else:
            new = _home(value)
        if new != value:
            changed[field.name] = new
    return dataclasses.replace(config, **changed) if changed else config


def _needs_text(field: dataclasses.Field[object]) -> bool:
    """True if a field may not be empty, as `--out=$UNSET` would make it: an empty path would be the
    working folder."""
    return field.default not in ("", None)


def _home(value: object) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) and value[:1] == "~" else value


def _in_words(message: str) -> str:
    """jsonargparse's message about a value of another type, in the words of messages about
    files."""
    if words := _OF_WORDS.fullmatch(message) or _OF_WORDS_OR_NONE.fullmatch(message):
        name, known, value = words.groups()
        return f"--{name} must be one of {known.replace(chr(39), '')}, not {value.strip()!r:.60}"
    match = _OF_TYPE.fullmatch(message) or _OF_TYPE_OR_NONE.fullmatch(message)
    if match is None or match[2] not in _TYPES:
        return message
    name, type_name, value = match[1], match[2], match[3].strip()
    if type_name == "tuple":
        return f"--{name} takes a list, not {value!r:.60}; write --{name}='[…]'"
    problem = f"--{name} must be {_TYPES[type_name]}, not {value!r:.60}"
    # A sweep's quantised values are 16.0, and YAML reads 1e4 as a float.
    is_whole = type_name == "int" and re.fullmatch(r"-?\d{1,18}\.0", value)
    return f"{problem}; write {value.removesuffix('.0')}" if is_whole else problem


def _with_suggestion(message: str, known: list[str]) -> str:
    _, unknown, words = message.partition("unrecognized arguments: ")
    if not unknown:
        return message
    if not words.startswith("-"):
        return f"{words:.200} follows no flag that takes it; {flags.QUOTE}"
    flag = words.split()[0].partition("=")[0]
    likely = " or ".join(f"--{name}" for name in help_page.likely_flags(flag, known))
    return f"unknown flag {flag}" + (f"; did you mean {likely}?" if likely else "; see --help")


def run(
    main: Callable[[T], Any],
    config_class: type[T],
    prog: str,
    about: str,
    first: Sequence[str] = (),
) -> None:
    """Parse the command line and call `main`. A user's mistake ends with one line on stderr and
    exit code 2.

    `about` describes the command, with an example. `first` are the settings that --help shows
    first, because most people need them.
    """
    with command(prog):
        main(parse_config(config_class, prog=prog, about=about, first=first))
