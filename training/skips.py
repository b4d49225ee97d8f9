"""Batches that are skipped, by training.skip_batches or after a spike.

At a spike, PaLM (arXiv:2204.02311, §5.1) went back about 100 updates and skipped 200 to 500
batches. The same batches caused no spike with other parameters.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import write_text
from common.json_files import read_list
from training.devices.processes import from_process_0
from training.spans import parse_range

MOST = 2**62


@dataclass(frozen=True)
class SkippedBatches:
    """Batches start … stop − 1, which are not trained on again. Numbers count all batches, skipped
    ones included."""

    start: int
    stop: int
    step: int
    """Finished updates when the skip was decided; earlier updates are not affected."""
    why: str
    spike: int | None = None
    """The step of the spike; None for training.skip_batches."""


def read_ranges(path: Path) -> list[SkippedBatches]:
    """The ranges in a RUN/skips.json; empty if there is no file. Raises ValueError if it is
    damaged."""
    ranges = []
    for number, fields in enumerate(read_list(path), 1):
        kinds = {**dict.fromkeys(("start", "stop", "step"), int), "why": str}
        wrong = [key for key, type_ in kinds.items() if type(fields.get(key)) is not type_]
        wrong += [key for key in fields if key not in (*kinds, "spike")]
        if not isinstance(fields.get("spike"), int | None):
            wrong.append("spike")
        if not wrong and not 0 <= fields["start"] < fields["stop"] < MOST:
            wrong = ["start", "stop"]
        if wrong:
            raise ValueError(
                f"{path} is not a list of skipped batches: {wrong[0]} of range {number}"
            )
        ranges.append(SkippedBatches(**fields))
    return ranges


class Skips:
    """A map from updates to batches that jumps over skipped ones. It is stored in RUN/skips.json,
    so that a resumed run takes the same batches."""

    def __init__(
        self,
        path: Path,
        is_writer: bool = True,
        announce: Callable[[SkippedBatches], None] = lambda added: None,
    ) -> None:
        """`announce` logs a new range."""
        self._path, self._is_writer, self._announce = path, is_writer, announce
        # Process 0's file counts: other processes may not see its disk.
        stored = from_process_0(lambda: [vars(skipped) for skipped in read_ranges(path)])
        self.ranges = [SkippedBatches(**fields) for fields in stored]

    def position(self, n: int) -> int:
        """The number of the batch of update n + 1."""
        for skipped in self.ranges:
            if n >= skipped.start:
                n += skipped.stop - skipped.start
        return n

    def examples(self, n: int, examples_at: Callable[[int], int]) -> int:
        """The number of examples in `n` updates. `examples_at(batch)` is the number of examples in
        all batches before this one."""
        batch = self.position(n)
        return examples_at(batch) - sum(
            examples_at(skipped.stop) - examples_at(skipped.start)
            for skipped in self.ranges
            if skipped.start < batch
        )

    def skip_by_hand(self, ranges: Sequence[str], step: int) -> None:
        """Skip the ranges of training.skip_batches, such as "100:120"."""
        for text in ranges:
            self.skip(*parse_range(text), step, "by hand")

    def skip(
        self, start: int, stop: int, step: int, why: str, spike: int | None = None
    ) -> list[SkippedBatches]:
        """Skip the batches start … stop − 1 that no finished update has used, and log and return
        the new ranges. `step` is the number of finished updates."""
        free = [(max(start, self.position(step)), stop)]
        for old in self.ranges:
            free = [piece for part in free for piece in _without(part, old)]
        added = [SkippedBatches(a, b, step, why, spike) for a, b in free if a < b]
        self.ranges = sorted([*self.ranges, *added], key=lambda skipped: skipped.start)
        if added and self._is_writer:
            text = json.dumps([vars(skipped) for skipped in self.ranges], indent=1)
            write_text(self._path, text + "\n")
        for skipped in added:
            self._announce(skipped)
        return added


def _without(part: tuple[int, int], old: SkippedBatches) -> list[tuple[int, int]]:
    before = (part[0], min(part[1], old.start))
    after = (max(part[0], old.stop), part[1])
    return [piece for piece in (before, after) if piece[0] < piece[1]]
