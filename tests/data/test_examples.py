"""examples.jsonl is read line by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.stored.examples import LINES, OFFSETS, Examples, ExampleWriter
from tests.data.test_records import write

LISTED = [{"key": str(i), "caption": "é\u2028" * i} for i in range(50)]


@pytest.mark.parametrize("has_offsets", [True, False])
def test_every_example_is_read_alone(tmp_path: Path, has_offsets: bool) -> None:
    with ExampleWriter(tmp_path) as writer:
        writer.add(LISTED)
    if not has_offsets:
        (tmp_path / OFFSETS).unlink()
    examples = Examples(tmp_path)
    assert len(examples) == 50
    assert [examples[i] for i in (49, 0, -1, 7)] == [LISTED[i] for i in (49, 0, -1, 7)]
    assert list(examples) == LISTED
    assert examples[3:9:2] == LISTED[3:9:2]
    with pytest.raises(IndexError):
        examples[50]


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    (tmp_path / LINES).write_text('{"a": 1}\n{"a": 2}')
    assert list(Examples(tmp_path)) == [{"a": 1}, {"a": 2}]


def test_a_damaged_line_is_named_and_hurts_no_other(tmp_path: Path) -> None:
    with ExampleWriter(tmp_path) as writer:
        writer.add(LISTED)
    content = (tmp_path / LINES).read_bytes()
    (tmp_path / LINES).write_bytes(b"?" + content[1:])
    assert Examples(tmp_path)[1] == LISTED[1]
    with pytest.raises(ValueError, match=rf"{LINES} is damaged in line 1: Expecting value"):
        Examples(tmp_path)[0]
    (tmp_path / LINES).write_bytes(content + b"{}\n")
    with pytest.raises(ValueError, match=rf"{OFFSETS} does not fit {LINES}"):
        Examples(tmp_path)[0]


def test_captions_for_the_grid_read_so_many_lines_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = write(tmp_path / "r", examples=LISTED)
    read: list[bytes] = []
    loads = json.loads

    def note(line: bytes) -> Any:
        read.append(line)
        return loads(line)

    monkeypatch.setattr(json, "loads", note)
    assert records.some_captions(1) == ["é\u2028"]
    assert len(read) <= 2  # the tests' type checker reads one of them
