"""Patterns of parameter paths, such as decoder/*kernel."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

SHOWN = 4
"""Most paths in an error message."""
Factor = tuple[str, float]
"""(a pattern of paths or a name of GROUPS, the factor)."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "embeddings": ("*tokens", "*positions", "*relative_bias", "*codebook"),
    "head": ("head/*",),
    "matrices": ("encoder/*kernel", "decoder/*kernel"),
    "norms": ("*norm/scale", "*norm/bias", "*norm_*/scale", "*norm_*/bias"),
}
"""Names for common patterns."""


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True if one of the patterns matches the path. `*` matches any text, slashes included."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(
    field: str, patterns: Iterable[str], names: Sequence[str], what: str = "parameters"
) -> None:
    """Raise ValueError for a pattern of the setting optim.`field` that matches no name. The message
    has the nearest names."""
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            near = difflib.get_close_matches(pattern.strip("*"), names, n=SHOWN, cutoff=0.0)
            raise ValueError(
                f"optim.{field} {pattern!r} matches none of {len(names)} {what}; the nearest are "
                f"{', '.join(near)}"
            )


def parse_rate(text: str) -> Factor:
    """(pattern, factor) of a text PATTERN:FACTOR. Raises ValueError for any other text."""
    pattern, _, number = text.rpartition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not pattern or not 0 < factor < math.inf:
        raise ValueError(
            f"optim.rates {text!r} is not PATTERN:FACTOR with a factor above 0, such as head/*:0.5 "
            f"or {next(iter(GROUPS))}:3; optim.freeze holds parameters still"
        )
    return pattern, factor


def make_factor(rates: Sequence[Factor]) -> Callable[[str], float]:
    """A function from a path to the factor of the first pattern that matches it; 1 if none does."""

    def factor_of(name: str) -> float:
        factors = (f for pattern, f in rates if matches(name, GROUPS.get(pattern, (pattern,))))
        return next(factors, 1.0)

    return factor_of
