"""The first screen of --help, and suggestions for a misspelt flag."""

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise

from common.settings import Setting, settings_of

WIDTH = 98
CONFIG = "YAML file of settings, such as presets/*.yaml; flags override it"
MOST = 3
"""Most flags in a suggestion."""


def first_screen(config_class: type, prog: str, about: str, first: Sequence[str]) -> str:
    """The first screen of --help: usage, description with an example, and the flags in `first`,
    each with one sentence. Without `first`, the required and the positional flags."""
    known = {setting.name: setting for setting in settings_of(config_class)}
    named = first or [
        setting.name for setting in known.values() if is_required(setting) or _is_word(setting)
    ]
    words = [_word(known[name]) for name in named if name != "config" and is_required(known[name])]
    program = f"python {prog}" if prog.endswith(".py") else prog
    usage = " ".join(["usage:", program, *words, "[--FLAG=VALUE ...]"])
    lines = [usage, "", *about.strip().split("\n")]
    if named:
        lines += ["", "most needed:" if first else "arguments:"]
        lines += [line for name in named for line in _row(name, known.get(name))]
    return "\n".join([*lines, "", "all flags, by section:", ""])


def is_required(setting: Setting) -> bool:
    """True if the setting has no default."""
    field = setting.field
    has_default = field.default is not dataclasses.MISSING
    return not has_default and field.default_factory is dataclasses.MISSING


def _is_word(setting: Setting) -> bool:
    """True if the setting is a positional argument."""
    return bool(setting.field.metadata.get("positional"))


def _word(setting: Setting) -> str:
    name = setting.name.upper()
    return name if _is_word(setting) else f"--{setting.name}={name}"


def _row(name: str, setting: Setting | None) -> list[str]:
    """The lines of a flag, with the first sentence of its description."""
    if setting is None:
        flag, reason = "--config=FILE", CONFIG
    else:
        flag = name.upper() if _is_word(setting) else f"--{name}"
        reason = setting.field.metadata.get("help") or reasons(setting.owner)[setting.field.name]
        reason = first_sentence(reason) + _default_of(setting)
    return textwrap.wrap(
        f"{flag:<28} {reason}", WIDTH, initial_indent="  ", subsequent_indent=" " * 31
    )


def _default_of(setting: Setting) -> str:
    default = setting.field.default
    if is_required(setting):
        return " (required)"
    is_shown = default not in ("", None, ()) and default is not dataclasses.MISSING
    if not is_shown:
        return ""
    return f" ({' '.join(default) if isinstance(default, tuple) else default})"


def first_sentence(text: str) -> str:
    """The text up to the first full stop outside of brackets, without it."""
    depth = 0
    for i, (letter, after) in enumerate(pairwise(f"{text} ")):
        depth += (letter == "(") - (letter == ")")
        is_end = letter == "." and after == " " and not text[:i].endswith("et al")
        if not depth and is_end:
            return text[:i]
    return text


def reasons(config_class: type) -> dict[str, str]:
    """The text below each field, by the field's name; inherited ones too."""
    reason_of: dict[str, str] = {}
    for config in filter(dataclasses.is_dataclass, reversed(config_class.__mro__)):
        tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
        assert isinstance(tree, ast.ClassDef)
        reason_of |= {
            ast.unparse(field.target): " ".join(str(ast.literal_eval(below.value)).split())
            for field, below in pairwise(tree.body)
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
        }
    return reason_of


def likely_flags(flag: str, names: Iterable[str]) -> list[str]:
    """The settings that a misspelt, shortened or misplaced flag may mean, the likeliest first: norm
    is model.norm, lr optim.learning_rate, batch training.batch_size."""
    section, _, leaf = flag.removeprefix("--").replace("-", "_").rpartition(".")
    ranked = []
    for place, name in enumerate(names):
        its_section, _, its_leaf = name.rpartition(".")
        rank = _distance(leaf, its_leaf)
        if rank is None and its_section and leaf.startswith(its_section):
            rank = 5  # --optimizer
        if rank is not None:
            ranked.append((rank, its_section != section, name.count("."), place, name))
    ranked.sort()
    return [name for rank, *_, name in ranked if rank == ranked[0][0]][:MOST]


def _distance(given: str, name: str) -> float | None:
    """The distance of a word from a setting's name; None = it means another."""
    parts = name.split("_")
    if given == name:
        return 0
    if given in ("".join(part[0] for part in parts), "".join(parts)):
        return 1
    if name.startswith(given) or given in parts:
        return 2
    alike = difflib.SequenceMatcher(None, given, name).ratio()
    return 4 - alike if alike > 0.6 else None
