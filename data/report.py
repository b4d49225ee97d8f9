"""Write an HTML page about token records, or about captioned pictures before they are encoded.

python -m data.report records/mine --out report.html
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from common import clone
from common.files import check_free, write_text
from data.encoding.writing import BAD_SAMPLES
from data.looking.duplicates import near, perceptual_hash
from data.looking.report_page import Picture, Report, page
from data.pictures.reading import Reading, check_same, read_pictures
from data.records import Records, open_records
from data.sources import PLAIN, Source, open_source
from data.stored.records_json import MARKER
from data.text.words import words_of

_SIDE = 64  # of the pictures of a source that is not encoded yet
_MOST_CAPTIONS = 200_000  # that words are counted in
_MOST_WORDS = 120
_MOST_GROUPS = 12
_NAMED = 3  # skipped pictures of each reason, by name
_NEAR_BITS = 4


@dataclass(frozen=True)
class ReportConfig:
    """The records or pictures to look at, and the page."""

    data: str = field(
        metadata={
            "nargs": None,
            "positional": True,
            "help": "Folder of token records, or pictures in any layout of docs/layouts.md.",
        }
    )
    """Records or pictures."""
    out: str = "report.html"
    """The page; it must not exist."""
    pictures: int = 48
    """Pictures that are shown, spread over all of them."""
    looked_at: int = 2000
    """Pictures, spread over all of them, among which near duplicates are looked for."""


def main(config: ReportConfig) -> None:
    """Write the page and print its path."""
    for name, most in (("pictures", 1000), ("looked_at", 100_000)):
        if not 0 <= getattr(config, name) <= most:
            raise ValueError(f"{name} {getattr(config, name)} is not between 0 and {most:,}")
    out = Path(config.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out {out}: the report is a page; name a .html file")
    check_free(out)
    if (clone.find(config.data) / MARKER).is_file():
        report = of_records(open_records(config.data).in_order(), config)
    else:
        report = of_source(open_source(config.data, need_captions=False), config)
    write_text(out, page(report))
    print(f"{out}: {len(report.pictures):,} pictures shown, {out.stat().st_size:,} bytes")


def of_source(source: Source, config: ReportConfig) -> Report:
    """The report on pictures that are not encoded yet."""
    report = Report(f"Pictures {source.path}", [("recognised as", source.describe())])
    report.summary += [("noticed", line) for line in source.warnings()]
    rows = evenly_spaced(len(source), max(config.looked_at, config.pictures))
    readings = list(read_pictures(source, _SIDE, rows, True, PLAIN_WITHOUT_END))
    used = [reading for reading in readings if reading.pixels is not None]
    report.pictures = [_picture(used[i]) for i in evenly_spaced(len(used), config.pictures)]
    captions = [text for reading in used if reading.example for text, _ in reading.example.captions]
    report.lengths = [len(text.split()) for text in captions]
    report.words = common_words(captions)
    report.groups = duplicates(used)
    problems = ((reading.name, reading.problem) for reading in readings if reading.pixels is None)
    report.skipped = by_reason(problems)
    if len(rows) < len(source):
        report.summary.append(("looked at", f"{len(rows):,} of {len(source):,} pictures"))
    return report


def of_records(records: Records, config: ReportConfig) -> Report:
    """The report on token records, with pictures from the source if it exists."""
    report = Report(f"Token records {records.folder}", summary_of(records))
    report.lengths = np.asarray(records.text_lengths).tolist()
    report.length_unit = f"tokens of at most {records.text_length}"
    rows = evenly_spaced(len(records), _MOST_CAPTIONS)
    report.words = common_words(str(records.examples[row]["caption"]) for row in rows)
    flat = np.asarray(records.image_tokens).ravel()
    report.code_counts = np.bincount(flat, minlength=records.codebook_size).tolist()
    filters = records.about.get("filters")
    report.filters = [entry for entry in filters if isinstance(entry, dict)] if filters else []
    report.skipped = by_reason(read_bad_samples(records.folder / BAD_SAMPLES))
    chosen = evenly_spaced(len(records), config.pictures)
    size, decoded = decode(records, chosen)
    readings, why = read_again(records, chosen, size)
    if why:
        report.summary.append(("source", why))
    report.pictures = [
        _shown(records, row, readings.get(row), again)
        for row, again in zip(chosen, decoded, strict=True)
    ]
    if not why:
        looked, _ = read_again(records, evenly_spaced(len(records), config.looked_at), size)
        report.groups = duplicates([reading for _, reading in sorted(looked.items())])
    return report


def summary_of(records: Records) -> list[tuple[str, str]]:
    """The rows of the first table."""
    about = records.about
    counts = ", ".join(f"{count:,} {name}" for name, count in about["counts"].items())
    captions = len(records.text_tokens)
    rows = [
        ("examples", f"{len(records):,} ({counts})"),
        ("captions", f"{captions:,}, {about.get('num_captions_cut', 0):,} of them truncated"),
        ("views of each picture", str(records.more_views + 1)),
        ("image tokens", f"{records.image_length} of {records.codebook_size:,} codes"),
        ("sources", ", ".join(records.sources)),
        ("skipped pictures", f"{about.get('num_skipped', 0):,}"),
    ]
    unused, damaged = about.get("left_out"), about.get("damaged_files")
    rows += [(f"skipped {why}", f"{n:,}") for why, n in (unused or {}).items()]
    return rows + [(f"damaged: {name}", str(why)) for name, why in (damaged or {}).items()]


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


def common_words(captions: Iterable[str]) -> list[tuple[str, int]]:
    """(word, count) of the most frequent words."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return counts.most_common(_MOST_WORDS)


def by_reason(skipped: Iterable[tuple[str, str]]) -> list[tuple[str, int, list[str]]]:
    """(reason, count, first names), the most frequent first."""
    names: dict[str, list[str]] = {}
    counts = Counter[str]()
    for name, why in skipped:
        counts[why] += 1
        if len(some := names.setdefault(why, [])) < _NAMED:
            some.append(name)
    return [(why, count, names[why]) for why, count in counts.most_common()]


def read_bad_samples(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, reason) of the skipped pictures; none for older records."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                sample = json.loads(line)
                yield str(sample["picture"]), str(sample["reason"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(f"{path} is damaged in line {number:,}") from None


def read_again(records: Records, rows: Sequence[int], size: int) -> tuple[dict[int, Reading], str]:
    """(row → its picture in the source, the reason if there are no pictures)."""
    examples = [records.examples[row] for row in rows]
    indices = [example["source_index"] for example in examples]
    try:
        source = open_source(records.sources, need_captions=False, config=records.reading)
        readings = list(read_pictures(source, size, indices, config=records.reading))
        for reading, example in zip(readings, examples, strict=True):
            check_same(reading, example)
    except (ValueError, OSError, IndexError) as error:
        return {}, f"its pictures cannot be read now: {error}"
    used = zip(rows, readings, strict=True)
    return {row: again for row, again in used if again.pixels is not None}, ""


def decode(records: Records, rows: Sequence[int]) -> tuple[int, list[UInt8[np.ndarray, "y x 3"]]]:
    """(side of the VQGAN's pictures, reconstructions of these rows)."""
    import jax

    from common.pixels import to_bytes
    from vqgan import autoencoder, pretrained

    vqgan, params = pretrained.load(records.vqgan_folder)
    if not rows:
        return vqgan.image_size, []
    compiled = jax.jit(lambda p, tokens: to_bytes(autoencoder.build(vqgan).decode(p, tokens)))
    tokens = np.asarray(records.image_tokens[list(rows)], np.int32)
    return vqgan.image_size, list(np.asarray(compiled(params, tokens)))


def duplicates(readings: Sequence[Reading]) -> list[tuple[str, list[Picture]]]:
    """Groups of equal pictures, and of nearly equal ones, with their titles."""
    places: dict[bytes, list[int]] = {}
    for place, reading in enumerate(readings):
        if reading.pixels is not None:
            digest = hashlib.blake2b(reading.pixels.tobytes(), digest_size=16).digest()
            places.setdefault(digest, []).append(place)
    same = [group for group in places.values() if len(group) > 1]
    first = [group[0] for group in places.values()]
    hashes = [perceptual_hash(p) for i in first if (p := readings[i].pixels) is not None]
    alike: dict[int, list[int]] = {}
    for place, original in near(hashes, _NEAR_BITS):
        alike.setdefault(original, []).append(place)
    nearly = [[first[i] for i in (original, *copies)] for original, copies in alike.items()]
    return [
        (f"{len(groups):,} {kind} times, of {len(readings):,} looked at", _flat(groups, readings))
        for kind, groups in (
            ("pictures come exactly so several", same),
            ("pictures come nearly so several", nearly),
        )
        if groups
    ]


def _flat(groups: Sequence[Sequence[int]], readings: Sequence[Reading]) -> list[Picture]:
    """The first two pictures of each group, for some groups."""
    pairs = [(readings[group[0]], readings[group[1]]) for group in groups[:_MOST_GROUPS]]
    shown = []
    for reading, other in pairs:
        picture = _picture(reading)
        picture.again, picture.about = other.pixels, f"{reading.name} and {other.name}"
        shown.append(picture)
    return shown


def _picture(reading: Reading) -> Picture:
    captions = reading.example.captions if reading.example else ()
    caption = " · ".join(text for text, _ in captions[:_NAMED])
    return Picture(caption, reading.name, reading.pixels)


def _shown(
    records: Records, row: int, reading: Reading | None, again: UInt8[np.ndarray, "y x 3"]
) -> Picture:
    example: dict[str, Any] = records.examples[row]
    shown = Picture(str(example["caption"]), f"{example['key']}, {example['split']}", None, again)
    if reading is not None and reading.pixels is not None and reading.pixels.shape == again.shape:
        shown.pixels = reading.pixels
        error = np.square(reading.pixels.astype(np.float64) - again).mean()
        shown.decibels = float(10 * np.log10(255**2 / max(error, 1e-9)))
    return shown


PLAIN_WITHOUT_END = replace(PLAIN, max_bad_fraction=1.0)
"""Settings of reading that never stop, because the report shows the share of unusable pictures."""


if __name__ == "__main__":
    import runtime
    from command_line.parser import run

    runtime.prepare()
    run(main, ReportConfig, prog="python -m data.report", about=__doc__ or "")
