"""Pictures of a source → shards: pictures as image tokens, captions as text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from common.filling import filled
from common.pixels import to_floats
from common.split_names import GALLERY
from data.encoding.progress import Progress
from data.encoding.shards import Shard, ShardFolder
from data.encoding.splits import split_of
from data.pictures.reading import BadShare, Reading, read_pictures
from data.pictures.views import NO_VIEWS, Views, hash_pixels
from data.sources import Example, ReadingConfig, Source, printable

Known = Mapping[int, Int32[np.ndarray, "v k"]]
"""Hash of a picture → the tokens of its views."""


@dataclass(frozen=True)
class PictureEncoder:
    """The part of a VQGAN that encodes pictures."""

    image_size: int
    codebook_size: int
    encode: Callable[[Float32[np.ndarray, "b y x 3"]], Any]
    """Pixels → tokens Int32[b k], which may still be computed when it returns."""
    batch_size: int = 64
    """Pictures per call, always the same number, for one compiled program."""


@dataclass(frozen=True)
class PictureOptions:
    """Settings for pictures, and the share of them that is held out."""

    held_out: float
    reading: ReadingConfig
    views: Views = NO_VIEWS
    known: Known = field(default_factory=dict)
    """Tokens that are known already."""


def encode_shards(
    source: Source,
    encoder: PictureEncoder,
    options: PictureOptions,
    shards: ShardFolder,
    numbers: Iterable[int],
    progress: Progress,
) -> None:
    """Write the shards of these numbers that do not exist yet.

    Raises:
        ValueError: more than reading.max_bad_fraction of the pictures so far are unusable.
    """
    for number in numbers:
        if shards.head(number) is None:
            share = BadShare(source, options.reading.max_bad_fraction, *shards.bad_share())
            shard = encode_span(
                source, encoder, options, shards.span(number), share, progress.advance
            )
            shards.write(number, shard)
            progress.reach(shards.num_done())


def encode_span(
    source: Source,
    encoder: PictureEncoder,
    options: PictureOptions,
    span: Sequence[int],
    share: BadShare | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Shard:
    """The shard with the encoded usable pictures of a span of the source.

    Raises:
        ValueError: too many pictures are unusable; `share` includes earlier spans.
    """
    queue, views = _Queue(encoder), options.views.count
    none = np.zeros((0, 0), np.int32)
    shard = Shard(none, none, np.zeros(0, np.uint64))
    reused: dict[int, np.ndarray] = {}
    hashes: list[int] = []
    share = share or BadShare(source, options.reading.max_bad_fraction)
    for reading in read_pictures(
        source,
        encoder.image_size,
        span,
        need_captions=True,
        config=replace(options.reading, max_bad_fraction=1.0),  # `share` judges all spans
        views=options.views,
        ahead=2 * encoder.batch_size // views + 1,
    ):
        share.add(reading)
        advance()
        if reading.example is None or reading.pixels is None:
            shard.skipped.append((printable(reading.name), printable(reading.problem)))
            continue
        shard.notes.add(reading)
        split = reading.example.split or split_of(reading.pixels, options.held_out)
        _note(shard, reading.index, reading.example, split)
        hashes.append(hash_pixels(reading.pixels))
        if hashes[-1] in options.known:
            reused[len(hashes) - 1] = options.known[hashes[-1]]
        else:
            queue.add(reading)
    if hashes:
        tokens = _in_order(queue.finish(), reused, len(hashes), views)
        shard.image_tokens = tokens[:, 0]
        shard.view_tokens = tokens[:, 1:].reshape(-1, tokens.shape[2])
        shard.pixel_hashes = np.array(hashes, np.uint64)
    return shard


class _Queue:
    """Encodes pictures in batches; a batch is computed while the next one is read."""

    def __init__(self, encoder: PictureEncoder) -> None:
        self._encoder = encoder
        self._waiting: list[UInt8[np.ndarray, "y x 3"]] = []
        self._begun: tuple[Any, int] | None = None
        self._done: list[Int32[np.ndarray, "b k"]] = []

    def add(self, reading: Reading) -> None:
        """Add all views of a picture."""
        for square in (reading.pixels, *reading.views):
            if square is not None:
                self._waiting.append(square)
            if len(self._waiting) == self._encoder.batch_size:
                self._begin()

    def _begin(self) -> None:
        count = len(self._waiting)
        rows = filled(np.arange(self._encoder.batch_size), count)
        pixels = to_floats(np.stack([self._waiting[row] for row in rows]))
        before, self._waiting = self._begun, []
        self._begun = self._encoder.encode(pixels), count
        self._end(before)

    def _end(self, begun: tuple[object, int] | None) -> None:
        if begun is not None:
            tokens = np.asarray(begun[0], np.int32)[: begun[1]]
            assert tokens.max() < self._encoder.codebook_size
            self._done.append(tokens)

    def finish(self) -> Int32[np.ndarray, "b k"]:
        """The tokens of all added pictures, in their order."""
        if self._waiting:
            self._begin()
        self._end(self._begun)
        return np.concatenate(self._done) if self._done else np.zeros((0, 0), np.int32)


def _in_order(
    fresh: Int32[np.ndarray, "b own"], reused: Mapping[int, np.ndarray], count: int, views: int
) -> Int32[np.ndarray, "n v k"]:
    """The tokens of `count` pictures: `reused` ones by place, and `fresh` ones for the others."""
    width = fresh.shape[1] if len(fresh) else next(iter(reused.values())).shape[1]
    tokens = np.zeros((count, views, width), np.int32)
    is_fresh = np.ones(count, bool)
    for place, rows in reused.items():
        tokens[place], is_fresh[place] = rows, False
    tokens[is_fresh] = fresh.reshape(-1, views, width)
    return tokens


def _note(shard: Shard, index: int, example: Example, split: str) -> None:
    shard.captions.append((("", 1.0),) if split == GALLERY else example.captions)
    shard.splits.append(split)
    shard.columns.append(dict(example.columns))
    shard.examples.append(
        {
            "key": example.key,
            "source_index": index,
            "file": example.file,
            "member": example.member,
            "caption": example.captions[0][0],
            "split": split,
            **example.attributes,
        }
    )
