"""Check all bytes of token records against their digests.

python -m data.check records/mine
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

from dataclasses import dataclass, field
from pathlib import Path

from data.records import open_records
from data.stored.record_checks import check_whole, mark_checked


@dataclass(frozen=True)
class CheckConfig:
    """Token records to read."""

    records: tuple[str, ...] = field(
        default=("records/things",),
        metadata={"nargs": "*", "positional": True, "help": "Folders of token records."},
    )
    """Folders of token records."""


def main(config: CheckConfig) -> None:
    """Check each folder. Raises ValueError at the first damaged file."""
    for folder in map(Path, config.records):
        records = open_records(folder)
        files = list(check_whole(folder, records.about, records.arrays, records.examples))
        records.columns.check()
        mark_checked(folder)
        print(f"{folder}: {len(records):,} pictures in {len(files)} arrays, as they were written")


if __name__ == "__main__":
    import runtime
    from command_line.parser import run

    runtime.prepare()
    run(main, CheckConfig, prog="python -m data.check", about=__doc__ or "")
