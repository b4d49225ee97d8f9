"""A run's logbook: RUN/LOGBOOK.md for people, RUN/logbook.jsonl for programs.

Events are starts, resumes, changed settings, skipped checkpoints, skipped updates, rollbacks, stops
and aborts. Each entry has a time and a step. People may add lines to LOGBOOK.md; no entry is ever
removed.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

from common.json_files import Json


class Logbook:
    """Appends entries. A full disk loses an entry, never the training."""

    def __init__(self, folder: Path, is_writer: bool = True) -> None:
        self._folder, self._is_writer = folder, is_writer

    def note(self, event: str, step: int | None, text: str, **facts: object) -> None:
        """Write one entry. `event` is a word such as start, skip or rollback; `facts` are further
        plain values for logbook.jsonl."""
        if not self._is_writer:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        entry = {"time": now, "event": event, "step": step, "text": text, **facts}
        page = self._folder / "LOGBOOK.md"
        where = "" if step is None else f", step {step}"
        line = f"- {now.replace('T', ' ')[:19]}{where}: **{event}** {text}\n"
        with contextlib.suppress(OSError):
            title = "" if page.exists() else f"# Logbook of {self._folder.resolve().name}\n\n"
            _append(page, title + line)
            _append(self._folder / "logbook.jsonl", json.dumps(entry) + "\n")

    def announce(self, event: str, step: int | None, text: str, **facts: object) -> None:
        """Write an entry, and print it to stderr."""
        if self._is_writer:
            print(f"{event}: {text}", file=sys.stderr, flush=True)
        self.note(event, step, text, **facts)


def read(folder: Path) -> list[Json]:
    """The entries of a run's logbook; a line truncated by a crash is skipped."""
    path = folder / "logbook.jsonl"
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
