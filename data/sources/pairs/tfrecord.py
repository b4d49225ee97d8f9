"""TFRecords of img2dataset: examples of TensorFlow with the keys jpg, caption and others.

A record is its length (8 bytes), the length's checksum (4), its bytes and their checksum (4). Its
bytes are a message of Protocol Buffers, tensorflow/core/example/example.proto. Both formats are
read without TensorFlow, and nothing is executed.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.pictures.decoding import MAX_BYTES
from data.sources.base import Example, Unused, counted
from data.sources.captions import texts
from data.sources.captions.encodings import decode
from data.sources.captions.splits import split_from
from data.sources.config import PLAIN, ReadingConfig
from data.sources.parts import SourceOfParts

_IMAGE_KEYS = ("jpg", "jpeg", "png", "webp", "image", "image/encoded", "image_raw")
_MAX_RECORD = MAX_BYTES + (1 << 20)


class TFRecordSource(SourceOfParts):
    """Records with a picture, one file after the other."""

    kind = "tfrecord"

    def __init__(self, files: Sequence[Path], config: ReadingConfig = PLAIN) -> None:
        self.path, self.files, self.config = files[0].parent, list(files), config
        self.damage, self.unused = {}, Unused()
        self._offsets: list[array] = []
        for file in files:
            offsets, damage = _list(file)
            self._offsets.append(offsets)
            if damage:
                self.damage[file.name] = damage
        self.divide(map(len, self._offsets))
        first = self[0] if len(self) else None
        self.num_captioned = len(self) if first and first.captions else 0
        self.about = counted(len(files), "TFRecord file")
        self.sought = f"its first record has none of {', '.join(texts.CAPTION_NAMES)}"

    def example(self, part: int, place: int) -> Example:
        """The record at a place of a file."""
        path, number = self.files[part], place
        with path.open("rb") as file:
            file.seek(self._offsets[part][number])
            (size,) = struct.unpack("<Q", file.read(8))
            file.seek(4, os.SEEK_CUR)
            record = file.read(min(size, _MAX_RECORD))
        key = f"{path.stem}/{number:08d}"
        try:
            features = dict(_features(record))
        except (ValueError, IndexError, struct.error):
            missing = "its record is damaged"
            return Example(key, b"", (("", 1.0),), "", {}, path.name, str(number), missing=missing)
        data = next((features[k] for k in _IMAGE_KEYS if isinstance(features.get(k), bytes)), b"")
        about: dict[str, Any] = {
            k: decode(v)[0] if isinstance(v, bytes) and len(v) < 1 << 20 else v
            for k, v in features.items()
            if k not in _IMAGE_KEYS
        }
        result = texts.from_columns(about, self.config.caption_column)
        columns, more = texts.columns_from(about)
        split = split_from(about.get("split")) if self.config.splits == "own" else ""
        return Example(
            key,
            data,
            result.captions,
            split,
            texts.attributes_from(about),
            path.name,
            str(number),
            (*result.notes, *more),
            columns,
            "" if data else "no picture in this record",
        )


def _list(path: Path) -> tuple[array, str]:
    """The offset of each record, and the fault that ended the list too early, if any."""
    offsets, start = array("q"), 0
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        while start < length:
            file.seek(start)
            head = file.read(12)
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else length
            if start + 16 + size > length:
                return offsets, f"truncated, or not a TFRecord, at byte {start:,}"
            offsets.append(start)
            start += 16 + size
    return offsets, ""


def _features(record: bytes) -> Iterator[tuple[str, Any]]:
    """Keys and first values of a tf.train.Example: bytes, a number, or a list of bytes."""
    for field, features in _fields(record):
        for inner, entry in _fields(features) if field == 1 else ():
            if inner == 1:
                parts = dict(_fields(entry))
                yield parts.get(1, b"").decode("utf-8", "replace"), _value(parts.get(2, b""))


def _value(feature: bytes) -> Any:
    for field, content in _fields(feature):
        values = [value for number, value in _fields(content) if number == 1]
        if field == 1:
            return values[0] if len(values) == 1 else [decode(v)[0] for v in values]
        if field in (2, 3):
            packed = b"".join(values)
            numbers = _floats(packed) if field == 2 else _integers(packed)
            return numbers[0] if len(numbers) == 1 else numbers
    return None


def _floats(packed: bytes) -> list[float]:
    return [number for (number,) in struct.iter_unpack("<f", packed[: len(packed) // 4 * 4])]


def _integers(packed: bytes) -> list[int]:
    """Numbers of 64 bits in two's complement."""
    numbers, start = [], 0
    while start < len(packed):
        value, start = _varint(packed, start)
        numbers.append(value - (1 << 64) if value >= 1 << 63 else value)
    return numbers


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of the length-delimited fields of a message; other fields are passed
    over."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == 2:
            size, position = _varint(message, position)
            if position + size > len(message):
                raise ValueError("a field is longer than its message")
            yield tag >> 3, message[position : position + size]
            position += size
        elif wire_type == 0:
            _, position = _varint(message, position)
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"a field of kind {wire_type}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("a number without an end")
