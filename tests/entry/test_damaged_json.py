"""Damaged JSON in runs and token records: dropped keys, replaced values, truncated files, random
bytes. Each file is either used, or named in one line.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import TypeCheckError

from data.encode import check_same
from data.exams.exam import Selection, never_seen, open_exam
from data.records import open_whole
from data.stored.folders import counts_of
from data.text import captions
from drawing.opening import open_checkpoint
from tests.entry.test_wrong_kinds import WRONG, places, replaced
from training.reports import logbook, mirror
from training.reports.metrics import MetricsFile
from training.saved import copies, starts
from training.saved.digests import json_digest
from training.saved.steps import SavedSteps
from training.skips import Skips
from vqgan import model_card

Reader = Callable[[Path], Any]
RAW = [
    *(b"", b"\n", b"null", b"[]", b"{}", b"7", b'"x"', b"\xff\xfe{\x00}\x00", bytes(64)),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b'{"a": 1, "a": 2}', b"NaN", b"[[[]]]"),
    b"\xef\xbb\xbf{}",
]
START = {"time": "t", "command": "train.py -x", "commit": "c", "versions": {"jax": "1"}}
RANGE = {"start": 3, "stop": 5, "step": 2, "why": "by hand", "spike": None}
ROWS = [{"step": n, "examples": 4 * n, "hours": 0.1 * n, "train/loss": 1.0} for n in (1, 2)]


def mutations(text: str) -> Iterator[bytes]:
    """Damaged variants of a JSON file."""
    tree = json.loads(text)
    for number, place in enumerate(list(places(tree))[:40]):
        for i in range(3):
            yield json.dumps(replaced(tree, place, WRONG[(number + 3 * i) % len(WRONG)])).encode()
        if place and isinstance(place[-1], str):
            less = replaced(tree, place, None)
            inner = less
            for key in place[:-1]:
                inner = inner[key]
            del inner[place[-1]]
            yield json.dumps(less).encode()
    yield text.encode()[: len(text) // 2]
    yield from RAW


def refusals(read: Reader, path: Path, contents: Iterator[bytes]) -> list[str]:
    """The messages for the contents that are refused. Other errors fail the test."""
    messages = []
    for content in contents:
        path.write_bytes(content)
        try:
            read(path)
        except (ValueError, TypeCheckError) as error:
            # In tests jaxtyping checks an item of each sequence that is passed on.
            found: BaseException | None = error
            while isinstance(found, TypeCheckError):
                found = found.__cause__ or found.__context__
            assert isinstance(found, ValueError), found
            messages.append(" ".join(str(found).split()))
    return messages


def write_metrics(path: Path) -> None:
    MetricsFile(path, 2, lambda step: step).close()


FILES: dict[str, tuple[Any, Reader]] = {
    "environment.json": ([START], lambda path: starts.write_start(path.parent, "", "cpu")),
    "skips.json": ([RANGE], lambda path: Skips(path).position(9)),
    "openmoji.json": ({"counts": {"train": 3}}, counts_of),
    "pastel.json": ({"normalizer": "clean"}, lambda path: captions.normalizer_of(path.parent)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_used_or_named(tmp_path: Path, name: str) -> None:
    content, read = FILES[name]
    path = tmp_path / name
    path.write_text(json.dumps(content))
    read(path)
    messages = refusals(read, path, mutations(json.dumps(content)))
    assert len(messages) > 8
    assert not [line for line in messages if str(path) not in line]


@pytest.mark.parametrize("write", [write_metrics, model_card.last_row])
def test_the_last_rows_of_metrics_are_used_or_named(tmp_path: Path, write: Reader) -> None:
    path, row = tmp_path / "metrics.jsonl", json.dumps(ROWS[1])
    whole = "".join(json.dumps(one) + "\n" for one in ROWS).encode()
    later = json.dumps({**ROWS[1], "step": 3}).encode()  # the resumed run will write this row again
    ends = b"" if write is model_card.last_row else later + b"\n"
    messages = refusals(write, path, (whole + bad + b"\n" + ends for bad in mutations(row)))
    assert len(messages) > 8
    assert not [line for line in messages if str(path) not in line]


def test_a_line_without_end_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="metrics.jsonl has a line of more than 8,388,608 bytes"):
        write_metrics(path)


def test_a_logbook_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    entry = json.dumps({"event": "start", "step": 0})
    lines = [*mutations(entry), b"\xff", entry.encode()]
    (tmp_path / "logbook.jsonl").write_bytes(b"\n".join(lines))
    found = logbook.read(tmp_path)
    assert found[-1] == {"event": "start", "step": 0}
    assert all(isinstance(one, dict) for one in found)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"a b", b"../../x", b"a" * 100_000, b"a\n\n"]
)
def test_an_id_of_wandb_is_one_or_its_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wandb_id.txt"
    messages = refusals(lambda path: mirror._lasting_id(path), path, iter([content]))
    assert bool(messages) == (content != b"a\n\n")
    assert not [line for line in messages if str(path) not in line]


def test_an_id_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wandb_id.txt")
    with pytest.raises(ValueError, match="wandb_id.txt is not a file"):
        mirror._lasting_id(tmp_path / "wandb_id.txt")


def test_a_copy_of_another_run_is_reported_by_its_damaged_file(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "away"
    run.mkdir()
    (folder / "run").mkdir(parents=True)
    (run / "environment.json").write_text(json.dumps([START]))
    path = folder / "run" / "environment.json"
    fetch = lambda path: copies.fetch(run, str(folder))  # noqa: E731
    messages = refusals(fetch, path, mutations(json.dumps([START])))
    assert len(messages) > 8
    assert not [line for line in messages if str(folder) not in line]


def use(folder: Path) -> None:
    """Read records as training, drawing, evaluating and encoding again do."""
    records = open_whole(folder)
    records.some_captions(3)
    exam = open_exam(records, 8, Selection(half="all"))
    exam.judge("tone", exam.gallery.pictures[exam.targets["tone"]][:, None])
    never_seen(records, exam.rows["tone"])


@pytest.mark.parametrize("name", ["records.json", "examples.jsonl"])
def test_records_are_used_or_their_file_is_named(
    records_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "records"
    shutil.copytree(records_folder, folder)
    path = folder / name
    text = path.read_text()
    if name == "records.json":
        contents = mutations(text)
    else:
        (folder / "examples.i64").unlink()
        first, *rest = text.splitlines(keepends=True)
        contents = (bad + b"\n" + "".join(rest).encode() for bad in mutations(first))

    def read(path: Path) -> None:
        (folder / ".checked.json").unlink(missing_ok=True)
        use(folder)
        if name == "records.json":
            with pytest.raises(ValueError, match="holds something else"):
                check_same(folder, {})

    messages = refusals(read, path, contents)
    assert len(messages) > 8
    assert not [line for line in messages if str(folder) not in line]


def test_damaged_json_of_a_checkpoint_is_harmless_or_its_step_is_named(
    run_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The digest is made to match: whoever changes a file can change its digest too."""
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    path = run / "checkpoints" / "0" / "about" / "metadata"
    words = json.loads(path.read_text())
    few = {**words, "digests": dict(list(words["digests"].items())[:3])}

    def sealed() -> Iterator[bytes]:
        for content in mutations(json.dumps(few)):
            try:
                found = json.loads(content)
                found["digest"] = json_digest({k: v for k, v in found.items() if k != "digest"})
                yield json.dumps(found).encode()
            except (ValueError, TypeError, AttributeError, RecursionError):
                yield content

    def read(path: Path) -> None:
        with SavedSteps(run / "checkpoints") as checkpoints:
            checkpoints.about(0)
            checkpoints.digests(0)
        open_checkpoint(run).params  # noqa: B018

    messages = refusals(read, path, sealed())
    assert len(messages) > 8
    assert not [line for line in messages if str(run / "checkpoints") not in line]
