"""Prompts of the command line and of files, and warnings about words that a model cannot know."""

import sys
from collections.abc import Sequence
from pathlib import Path

from data.records import open_records
from data.text.languages import English
from data.text.words import (
    Captions,
    describe_unknown,
    describe_unlike,
    training_captions,
    unknown_words,
)

CAPTIONS_FILE = "captions.txt"
"""A release's file with the captions that its model was trained on, one per line."""
MOST_BYTES = 1 << 26
"""Largest size of a file of prompts."""


def read_prompts(path: str | None) -> list[str]:
    """The lines of a file, or of standard input for "-". An empty line is the empty prompt; empty
    lines at the end are ignored."""
    if path is None:
        return []
    data = _read_standard_input() if path == "-" else _read_file(Path(path))
    if len(data) > MOST_BYTES:
        raise ValueError(f"prompts_file {path} has more than {MOST_BYTES:,} bytes")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.count(b"\0") > len(data) / 4:
        raise ValueError(f"prompts_file {path} is not UTF-8 text but UTF-16 or binary")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"prompts_file {path} is not UTF-8 text (byte {error.start:,}); save it as UTF-8"
        ) from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        raise ValueError("prompts_file - reads standard input, but that is closed; name a file")
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _read_file(path: Path) -> bytes:
    if not path.exists() or path.is_dir():  # pipes such as /dev/fd/3 are fine
        raise ValueError(f"no prompts_file at {path}")
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def in_english(prompts: Sequence[str], known: Captions | None) -> list[str]:
    """The prompts in the words of the captions: in English, and without an article if the captions
    have none. Each change is printed. Without known captions, the prompts are unchanged."""
    if known is None:
        return [*prompts]
    read = [*map(English(known).read, prompts)]
    for prompt, english in dict(zip(prompts, read, strict=True)).items():
        if prompt != english:
            print(f'"{prompt:.80}" is drawn as "{english:.80}"', file=sys.stderr)
    return read


def warn_of_unknown(prompts: Sequence[str], known: Captions | None) -> None:
    """Print the words of the prompts that no training caption has, and the prompts that are unlike
    all captions. Without known captions, nothing is printed."""
    if known is None:
        return
    if words := unknown_words(prompts, known.words):
        print(describe_unknown(words), file=sys.stderr)
    for line in describe_unlike(prompts, known):
        print(line, file=sys.stderr)


def known_captions(folder: Path, records: Sequence[str]) -> list[str] | None:
    """The captions that a model was trained on, from its release folder or its folders of token
    records; None if neither has them."""
    try:
        if (folder / CAPTIONS_FILE).is_file():
            return (folder / CAPTIONS_FILE).read_text(encoding="utf-8").splitlines()
        captions_of_each = [training_captions(open_records(path)) for path in records]
    except (ValueError, OSError):
        return None
    if not captions_of_each or any(captions is None for captions in captions_of_each):
        return None
    return list(
        dict.fromkeys(caption for captions in captions_of_each for caption in captions or ())
    )
