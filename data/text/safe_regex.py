"""Regular expressions of tokenizers that end soon, whatever the text is.

In a hostile file an expression could backtrack for years. So an expression must be a known one, or
of a form whose time is linear in the text's length.
"""

import re
from collections.abc import Iterator

MAX_LETTERS, MAX_CHOICES = 500, 4
_CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN = {_CASES + r"\p{N}{1,3}" + _REST, _CASES + r"\p{N}" + _REST}
"""Expressions of published tokenizers (cl100k, Llama 3, Qwen 2). They run in bounded time, which
`_is_linear` cannot prove."""
PIECE = re.compile(
    r"(?P<ahead>\(\?!\\S\))|(?P<opens>\((?:\?i?:)?(?!\?))|(?P<closes>\))|(?P<bar>\|)"
    r"|(?P<endless>[*+]|\{\d*,\})|(?P<maybe>\?)|(?P<counts>\{\d{1,2}(?:,\d{1,2})?\})"
    r"|(?P<letter>\\[pP]\{\^?\w+\}|\\[sSdDwWrnt]|\\[^\w\s]|\[\^?(?:\\[pP]\{\^?\w+\}|\\[sSdDwWrnt]"
    r"|\\[^\w\s]|[^][\\&])+\]|[^][\\(){}*+?|])"
)
"""One piece of a simple regular expression: no back references, no lookbehind."""
_REPEATS = ("endless", "maybe", "counts")


def check_regex(pattern: str) -> None:
    """Raise ValueError for an expression that is not known to end soon."""
    if pattern not in KNOWN and (len(pattern) > MAX_LETTERS or not _is_linear(pattern)):
        raise ValueError(f"the expression {pattern!r:.80} is not known to end soon")


def _is_linear(pattern: str) -> bool:
    """True if the form of an expression proves that its time is linear in the text's length: no
    group is repeated, few pieces are optional, and an unbounded repetition is the last piece of its
    alternative, so that there is no backtracking."""
    depth, last = 0, ""
    choices, is_open = 0, False  # optional pieces, unbounded repetition of this alternative
    for kind, before in _pieces(pattern):
        if not kind:
            return False
        if kind in _REPEATS:
            is_after_group = last == "closes"
            if last not in ("letter", "closes") or (is_after_group and kind != "maybe"):
                return False
            if kind == "endless" and (depth or is_open):
                return False
            is_open |= kind == "endless"
        elif kind == "bar" and not depth:
            choices, is_open = 0, False
        elif kind == "ahead":
            if not before.endswith(r"\s+"):
                return False
        elif is_open:
            return False
        choices += kind in ("maybe", "counts", "opens")
        depth += (kind == "opens") - (kind == "closes")
        if choices > MAX_CHOICES or depth not in (0, 1):
            return False
        last = kind
    return depth == 0


def _pieces(pattern: str) -> Iterator[tuple[str, str]]:
    """(kind, expression before it) of each piece. A piece of no known kind has the kind "", and is
    the last one."""
    place = 0
    while place < len(pattern):
        match = PIECE.match(pattern, place)
        if match is None:
            yield "", pattern[:place]
            return
        yield str(match.lastgroup), pattern[:place]
        place = match.end()
