"""Names of things in a sentence: their article and their plural."""

import re
from collections.abc import Iterator

from data.builtin.openmoji_splits import Emoji


def with_article(emoji: Emoji, name: str) -> str:
    """A name of the emoji with its article before it, if it has one."""
    return f"{article(emoji, name)} {name}".strip()


def article(emoji: Emoji, name: str = "") -> str:
    """a, an or nothing for the emoji's name, or another name of it: flags, symbols, keycaps and
    plurals have none."""
    name = name or emoji.name
    if emoji.group in ("flags", "symbols") or not name[:1].isalpha() or ":" in name:
        return ""
    if re.search(r"[^su]s$", name.split(" with ")[0]) or name.startswith(("man ", "woman ")):
        return ""
    return "an" if name[0] in "aeiou" else "a"


def plural(name: str) -> Iterator[str]:
    """The plural of a plain name of one or two words."""
    if re.fullmatch(r"[a-z]+( [a-z]+)?", name) and not name.endswith("s"):
        if re.search(r"[^aeiou]y$", name):
            yield f"{name[:-1]}ies"
        else:
            yield f"{name}es" if re.search(r"(x|ch|sh)$", name) else f"{name}s"
