"""Shards: the finished parts of an encoding. Each is written atomically, so a kill loses at most
one, and the same command resumes after the finished ones."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt64

from common.files import new_file, sweep, write_text
from common.json_files import Json, read_json
from data.pictures.reading import Notes
from data.sources import Captions

PLAN = "encoding.json"
_FORMAT = 2
_MOST_HEAD = 1 << 24  # bytes of a shard's first line


@dataclass
class Shard:
    """The results of one span of a source. Entry i of each list belongs to the same picture."""

    image_tokens: Int32[np.ndarray, "n k"]
    view_tokens: Int32[np.ndarray, "views k"]
    """The tokens of further views, one picture after the other."""
    pixel_hashes: UInt64[np.ndarray, " n"]
    captions: list[Captions] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    examples: list[Json] = field(default_factory=list)
    columns: list[Json] = field(default_factory=list)
    """The source's own columns."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class ShardHead:
    """The first line of a shard's file: numbers about its content."""

    kind: str
    """Numpy's name of the tokens' dtype."""
    tokens: tuple[int, int]
    """(pictures, tokens per picture)."""
    views: int
    splits: Mapping[str, int]
    skipped: Mapping[str, int]
    """Reason → number of skipped pictures."""
    notes: Mapping[str, int]
    first: Mapping[str, str]
    """Note → the first picture that it is about."""
    size: int
    """Bytes after the first line."""
    digest: str

    @property
    def seen(self) -> int:
        """Number of the source's pictures in this shard, skipped ones included."""
        return self.tokens[0] + sum(self.skipped.values())


class ShardFolder:
    """The shards of one encoding. Shard i has the pictures i × size … (i + 1) × size − 1."""

    def __init__(self, path: Path, total: int, size: int) -> None:
        self.path, self.total, self.size = path, total, size
        self.count = -(-total // size)
        self._heads: dict[int, ShardHead] = {}

    def span(self, number: int) -> range:
        """The indices of a shard's pictures in the source."""
        return range(number * self.size, min((number + 1) * self.size, self.total))

    def file(self, number: int) -> Path:
        """The path of a shard."""
        return self.path / f"{number:06}.shard"

    def head(self, number: int) -> ShardHead | None:
        """The head of a finished shard; None if the file does not exist or is truncated."""
        if number in self._heads:
            return self._heads[number]
        try:
            with self.file(number).open("rb") as file:
                line = file.readline(_MOST_HEAD)
                content = json.loads(line)
                head = ShardHead(**content | {"tokens": tuple(content["tokens"])})
                size = file.seek(0, 2) - len(line)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if size == head.size:
            self._heads[number] = head
        return self._heads.get(number)

    def heads(self) -> Iterator[ShardHead]:
        """Yield the heads of the finished shards, in order."""
        return (h for number in range(self.count) if (h := self.head(number)) is not None)

    def num_done(self) -> int:
        """The number of the source's pictures in finished shards."""
        return sum(head.seen for head in self.heads())

    def bad_share(self) -> tuple[int, Counter[str]]:
        """(number of pictures in the finished shards, number of skipped ones by reason)."""
        seen, bad = 0, Counter[str]()
        for head in self.heads():
            seen += head.seen
            bad.update(head.skipped)
        return seen, bad

    def write(self, number: int, shard: Shard) -> None:
        """Write a shard, atomically."""
        most = max(shard.image_tokens.max(initial=0), shard.view_tokens.max(initial=0))
        dtype = "<u2" if most < 1 << 16 else "<u4"
        tokens = (shard.image_tokens.astype(dtype), shard.view_tokens.astype(dtype))
        lists = (shard.captions, shard.splits, shard.examples, shard.columns)
        rows = list(zip(*lists, strict=True))
        text = json.dumps({"rows": rows, "skipped": shard.skipped}).encode("ascii")
        hashes = shard.pixel_hashes.astype("<u8")
        body = b"".join([*(array.tobytes() for array in (*tokens, hashes)), text])
        head = ShardHead(
            dtype,
            shard.image_tokens.shape,
            len(shard.view_tokens),
            Counter(shard.splits),
            Counter(why for _, why in shard.skipped),
            shard.notes.counts,
            shard.notes.first,
            len(body),
            _digest(body),
        )
        with new_file(self.file(number)) as beside, beside.open("wb") as file:
            file.write(json.dumps(vars(head)).encode("ascii") + b"\n")
            file.write(body)

    def read(self, number: int) -> Shard:
        """The content of a finished shard. A damaged one is removed, and raises ValueError."""
        head = self.head(number)
        body = b""
        if head is not None:
            with self.file(number).open("rb") as file:
                file.readline(_MOST_HEAD)
                body = file.read()
        if head is None or _digest(body) != head.digest:
            self.file(number).unlink(missing_ok=True)
            self._heads.pop(number, None)
            raise ValueError(
                f"{self.file(number)} was damaged and is removed; the same command makes it again"
            )
        return _parse(body, head)

    def __iter__(self) -> Iterator[Shard]:
        return (self.read(number) for number in range(self.count))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def _parse(body: bytes, head: ShardHead) -> Shard:
    (count, width), place = head.tokens, 0

    def take(dtype: str, *shape: int) -> np.ndarray:
        nonlocal place
        array = np.frombuffer(body, dtype, int(np.prod(shape)), place).reshape(shape)
        place += array.nbytes
        return array

    image_tokens = take(head.kind, count, width).astype(np.int32)
    view_tokens = take(head.kind, head.views, width).astype(np.int32)
    shard = Shard(image_tokens, view_tokens, take("<u8", count))
    content = json.loads(body[place:])
    shard.captions = [tuple((text, weight) for text, weight in row[0]) for row in content["rows"]]
    shard.splits = [row[1] for row in content["rows"]]
    shard.examples = [row[2] for row in content["rows"]]
    shard.columns = [row[3] for row in content["rows"]]
    shard.skipped = [(name, why) for name, why in content["skipped"]]
    shard.notes.join(head.notes, head.first)
    return shard


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def open_shards(shards: ShardFolder, plan: Mapping[str, object]) -> None:
    """Write the plan, which is everything that determines the shards, into the folder.

    Raises:
        ValueError: the folder has shards of another plan, or holds something else.
    """
    path = shards.path
    new = {"format": _FORMAT, **plan, "pictures": shards.total, "shard_size": shards.size}
    if (path / PLAN).is_file():
        was = read_json(path / PLAN)
        old = ShardFolder(path, *(_number(was.get(name)) for name in ("pictures", "shard_size")))
        if was != new and (done := old.num_done()):
            raise ValueError(_describe_changes(path, was, new, done))
    elif others := [file.name for file in path.iterdir() if not file.name.startswith(".")]:
        raise ValueError(f"{path} is there and holds {others[0]}; remove it or name another --out")
    write_text(path / PLAN, json.dumps(new, indent=1) + "\n")
    sweep(path)


def _number(value: object) -> int:
    return value if type(value) is int and 0 < value < 1 << 40 else 1


def _describe_changes(
    path: Path, was: Mapping[str, object], now: Mapping[str, object], done: int
) -> str:
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    changed = ", ".join(
        "the source's files"
        if name == "source"
        else f"{name} (was {was.get(name)}, now {now.get(name)})"
        for name in names
    )
    return (
        f"{path} holds {done:,} pictures of an encoding that was broken off, and since then "
        f"{changed} changed; give the same command to resume it, remove {path} to start again, "
        f"or name another --out"
    )
