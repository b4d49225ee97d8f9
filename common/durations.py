"""Durations in words, for lines of progress."""


def spoken(seconds: float) -> str:
    """Such as "78 s", "43 min" or "5.3 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
