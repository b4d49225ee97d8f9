"""Parsers of settings that are texts: ranges of updates, batch sizes that grow, durations."""


def parse_range(text: str) -> tuple[int, int]:
    """ "100:120" → batches 100 to 119. Raises ValueError."""
    span = _two_numbers(text)
    if span is None or span[0] >= span[1]:
        raise ValueError(
            f"training.skip_batches {text!r} is not a range a:b with a < b, such as 1000:1200, "
            "which skips the batches of updates 1001 to 1200"
        )
    return span


def parse_ramp(text: str) -> tuple[int, int]:
    """ "1000:1024" → from batch 1000 on, 1024 examples. Raises ValueError."""
    span = _two_numbers(text)
    if span is None or 0 in span:
        raise ValueError(
            f"training.batch_ramp {text!r} is not BATCH:SIZE, such as 1000:1024, from batch 1000 "
            "on 1024 examples"
        )
    return span


def parse_trace(text: str) -> tuple[int, int]:
    """ "100:110" → after 100 updates until 110 are made. Raises ValueError."""
    span = _two_numbers(text)
    if span is None or span[0] >= span[1]:
        raise ValueError(
            f"training.profile {text!r} is not a range a:b with a < b, such as 100:110 for updates "
            "101 to 110"
        )
    return span


def parse_duration(text: str) -> int:
    """ "11:45" → the seconds of 11 hours and 45 minutes. Raises ValueError."""
    hours, _, minutes = text.partition(":")
    if not hours.isdecimal() or not minutes.isdecimal() or len(minutes) != 2 or int(minutes) > 59:
        raise ValueError(
            f"training.stop_after {text!r} is not HH:MM, such as 11:45 for 11 hours and 45 minutes "
            "after the start"
        )
    return (int(hours) * 60 + int(minutes)) * 60


def _two_numbers(text: str) -> tuple[int, int] | None:
    """The whole numbers of "100:120"; None for any other text."""
    first, _, second = text.partition(":")
    return (int(first), int(second)) if first.isdecimal() and second.isdecimal() else None
