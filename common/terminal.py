"""Exit codes of commands, and safe printing; imports no other file of Pastel.

A command keeps its result even if nobody reads its output, or if the terminal's encoding lacks a
character.
"""

from __future__ import annotations  # read by older Pythons, too: installed.py names them

import codecs
import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

MISTAKE, INTERRUPTED = 2, 130
"""Exit codes: a user's mistake, with one line on stderr; stopped with Ctrl-C."""

PLAIN = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "µ": "u",
    "’": "'",
    "“": '"',
    "”": '"',
    "·": "-",
}
"""Replacements for characters that the terminal's encoding lacks; others become a question mark."""
WAYS_OUT = "take --training.micro_batch_size=auto in training, a smaller --rows_per_call in drawing"
READER_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO)
"""A closed pipe, and a closed terminal."""


def open_standard_streams() -> None:
    """Open the null device for a closed standard input, output or error. Otherwise the next opened
    file would get its number, and receive the text that libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


@contextlib.contextmanager
def command(prog: str) -> Iterator[None]:
    """A context for a command's body. A user's mistake ends it with one line on stderr and exit
    code 2, Ctrl-C with exit code 130. It continues if the reader of its output goes away."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Patient(sys.stdout, True), _Patient(sys.stderr, False)
    try:
        try:
            yield
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except Exception as error:
            if (line := explain(error)) is None:
                raise
            print(f"{prog}: {line}", file=sys.stderr)
            sys.exit(MISTAKE)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


def explain(error: Exception) -> str | None:
    """One line about an error that a user can fix; None for a bug, which needs its traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "out of memory"
    if is_out_of_memory(error):
        return f"out of memory ({text}); {WAYS_OUT}"
    if isinstance(error, UnicodeEncodeError):
        around = error.object[max(error.start - 60, 0) : error.end + 20]
        return f"{around!r} has bytes that are not UTF-8; rename the file or folder of that name"
    if isinstance(error, ValueError | OSError | OverflowError):
        return text
    if is_without_devices(error):
        asked = os.environ.get("JAX_PLATFORMS")
        where = f"JAX_PLATFORMS={asked} asks for" if asked else "jax looks for"
        why = f" ({text})" if text else ""
        return f"there are no such devices as {where}{why}; unset it, or install their jax"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True if the machine, or XLA on a device, was out of memory."""
    if isinstance(error, MemoryError):
        return True
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and bool(
        re.search(r"RESOURCE_EXHAUSTED|out of memory|failed to allocate", str(error), re.IGNORECASE)
    )


def printable(text: str) -> str:
    r"""The text, safe for a terminal: control characters are escaped as \x1b. Untrusted names and
    messages could otherwise move the cursor, set the title, or send input."""
    if text.isprintable():
        return text
    body = text.strip("\r")  # only progress bars begin or end with one
    start = text.index(body) if body else len(text)
    clean = "".join(c if c in "\n\t" or _is_harmless(c) else _spelled(c) for c in body)
    return text[:start] + clean + text[start + len(body) :]


def _is_harmless(letter: str) -> bool:
    """True for visible characters, spaces, joiners of emoji, and lone surrogates (which no encoding
    can write)."""
    return (
        letter.isprintable()
        or letter in "\u00a0\u3000\u200d\u200c"
        or "\ud800" <= letter <= "\udfff"
    )


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def is_without_devices(error: BaseException) -> bool:
    """True if jax found none of the requested devices; its error may have no text."""
    if "nable to initialize backend" in str(error):
        return isinstance(error, RuntimeError)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return (
        isinstance(error, AssertionError)
        and frame is not None
        and os.path.basename(frame.tb_frame.f_code.co_filename) == "xla_bridge.py"
    )


class _Patient:
    """A text stream that ignores a closed reader, replaces letters that its encoding lacks, and
    removes control sequences that a file's name or a message could contain (`printable`).

    If writing fails for another reason, such as a full disk, results (`must_arrive`) raise OSError,
    and messages are dropped.
    """

    def __init__(self, stream: Any, must_arrive: bool) -> None:
        self._stream, self._must_arrive = stream, must_arrive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as a text stream does."""
        with self._forgiving():
            shown = printable(text)
            try:
                self._stream.write(shown)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(shown.encode(encoding, _PLAIN).decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush as a text stream does."""
        with self._forgiving():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            gone = error.errno in READER_GONE
            if gone or self._must_arrive:
                # Buffered text has to go somewhere, at the latest at the interpreter's end.
                with contextlib.suppress(OSError, ValueError):
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, self._stream.fileno())
                    os.close(nowhere)
            if self._must_arrive and not gone:
                reason = error.strerror or str(error)
                raise OSError(error.errno or errno.EIO, reason, "standard output") from None


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in letters), error.end


_PLAIN = "pastel.plain"
codecs.register_error(_PLAIN, _spell)
