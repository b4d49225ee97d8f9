"""Copy the examples of token records that meet rules into new records.

python -m data.filter records/mine --out records/chosen --rules 'words>=3' 'similarity>=0.28'
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from common.files import check_free, write_text
from common.split_names import TRAIN
from data.encoding.writing import Part, new_records
from data.looking.duplicates import MOST_BITS, near, perceptual_hash, repeated
from data.looking.rule_columns import DERIVED, Rule, parse_rule
from data.looking.rules import Removed, against, format_table
from data.order import hash_of
from data.pictures.reading import check_same, describe_skipped, read_pictures
from data.records import Records, open_whole
from data.sources import open_source, printable

FILTERED = "filtered.jsonl"
FIRST_IN_HELP = ("records", "out", "rules", "exact_duplicates", "near_duplicates")
_AT_ONCE = 4096  # examples copied at a time
_LOOKED_AT = 64  # side of the pictures that near duplicates are found with
_MADE_ANEW = (
    *("format", "count", "grid_size", "image_length", "text_length", "split_names", "counts"),
    *("source", "sources", "reading", "arrays", "digest", "digests", "tokenizer_digest"),
    *("vqgan_digest", "filters"),
)


@dataclass(frozen=True)
class FilterConfig:
    """Records, the rules that examples must meet, and the folder for those that do."""

    records: str = field(
        metadata={"nargs": None, "positional": True, "help": "Folder of token records."}
    )
    """Folder of token records."""
    out: str = "records/filtered"
    """Folder for the new records; it must be new."""
    rules: tuple[str, ...] = field(
        default=(),
        metadata={
            "nargs": "*",
            "help": "Rules that every example must meet, in quotes: COLUMN, one of < <= > >= = != "
            "~ !~, and a number, text or regular expression. COLUMN is one of the source, width or "
            f"height, or one of {', '.join(DERIVED)}.",
        },
    )
    """Rules that every example must meet, such as similarity>=0.28, punsafe<0.3, url!~stock."""
    missing: bool = False
    """Keep examples that lack a rule's column. By default the rule removes them."""
    exact_duplicates: bool = True
    """Keep only the first of pictures with equal pixels, as they were encoded."""
    near_duplicates: int = 0
    """Keep only the first of pictures whose 64-bit perceptual hashes differ in at most this many
    bits. 0 = keep near duplicates; 4 finds copies of other sizes and formats. The source is read
    again."""


def main(config: FilterConfig) -> None:
    """Write the records that stay, and print what each rule removed."""
    rules = [parse_rule(text) for text in config.rules]
    if not 0 <= config.near_duplicates <= MOST_BITS:
        raise ValueError(
            f"near_duplicates {config.near_duplicates} is not between 0 and {MOST_BITS} bits"
        )
    records, out = open_whole(config.records).in_order(), Path(config.out)
    check_free(out)
    kept, why, table = choose(records, rules, config)
    if not (records.rows(TRAIN).size and kept[records.rows(TRAIN)].any()):
        worst = max(table, key=lambda row: row.removed)
        raise ValueError(
            f"the rules leave nothing to train on: {worst.rule} removed {worst.removed:,} of "
            f"{worst.looked_at:,} pictures"
        )
    write(records, out, kept, why, table)
    print("\n".join(format_table(table, int(kept.sum()))))
    print(f"{out}: {int(kept.sum()):,} of {len(records):,} pictures")


def choose(
    records: Records, rules: list[Rule], config: FilterConfig
) -> tuple[Bool[np.ndarray, " n"], dict[int, str], list[Removed]]:
    """(True for each example that stays, row → rule for each removed one, the table)."""
    kept, why, table = np.ones(len(records), bool), dict[int, str](), list[Removed]()

    def remove(done: Removed, places: Any) -> None:
        for place in map(int, places):
            kept[place], why[place] = False, done.rule
        done.removed = len(places)
        table.append(done)

    if config.exact_duplicates:
        done = Removed("exact duplicates", len(records))
        remove(done, np.flatnonzero(repeated(_hashes(records))))
    for rule in rules:
        done = Removed(printable(rule.text), int(kept.sum()))
        remove(done, against(records, rule, np.flatnonzero(kept), done, config.missing))
    if config.near_duplicates:
        rows = np.flatnonzero(kept)
        done = Removed(f"near duplicates, {config.near_duplicates} bits", len(rows))
        hashes = _perceptual(records, rows)
        remove(done, [rows[place] for place, _ in near(hashes, config.near_duplicates)])
    return kept, why, table


def _hashes(records: Records) -> np.ndarray:
    """A hash of each picture: of its pixels or, in older records, of its tokens."""
    if records.pixel_hashes is not None:
        return np.asarray(records.pixel_hashes)
    _, numbers = np.unique(np.asarray(records.image_tokens), axis=0, return_inverse=True)
    return numbers.ravel().astype(np.uint64)


def _perceptual(records: Records, rows: Int64[np.ndarray, " m"]) -> list[int]:
    source = open_source(records.sources, config=records.reading)
    examples = [records.examples[int(row)] for row in rows]
    indices = [example["source_index"] for example in examples]
    if max(indices, default=0) >= len(source):
        raise ValueError(f"{printable(str(source.path))} is not the source of {records.folder} now")
    readings = read_pictures(source, _LOOKED_AT, indices, config=records.reading)
    hashes, unread = [], list[tuple[str, str]]()
    for reading, example in zip(readings, examples, strict=True):
        check_same(reading, example)
        if reading.pixels is None:
            # An unreadable picture is nobody's copy; its own place makes its hash.
            hashes.append(int(hash_of(reading.index)[0]))
            unread.append((str(example["key"]), reading.problem))
        else:
            hashes.append(perceptual_hash(reading.pixels))
    if unread and len(unread) == len(hashes):
        raise ValueError(
            f"{printable(str(source.path))} is not the source of {records.folder} now: "
            f"{describe_skipped(unread, len(hashes))}; mend it, or use --near_duplicates=0"
        )
    if unread:
        skipped = describe_skipped(unread, len(hashes))
        print(f"near duplicates: {skipped}; they stay, and nobody looked at them", file=sys.stderr)
    return hashes


def write(
    records: Records,
    out: Path,
    kept: Bool[np.ndarray, " n"],
    why: dict[int, str],
    table: list[Removed],
) -> None:
    """Write the kept examples as new records, with the table and a list of the removed ones."""

    about = {k: v for k, v in records.about.items() if k not in _MADE_ANEW}
    before = records.about.get("filters")
    rows = [row.__dict__ for row in table]
    about["filters"] = [*(before if isinstance(before, list) else []), *rows]
    folders = {"tokenizer_folder": records.tokenizer_folder, "vqgan_folder": records.vqgan_folder}
    with new_records(
        out,
        records.split_names,
        source=records.sources,
        reading=records.reading,
        **{name: folder for name, folder in folders.items() if folder.is_dir()},
        **about,
    ) as writer:
        for part in _parts(records, np.flatnonzero(kept)):
            writer.add(part)
        lines = (
            json.dumps({"key": records.examples[row]["key"], "rule": rule})
            for row, rule in sorted(why.items())
        )
        write_text(writer.folder / FILTERED, "".join(f"{line}\n" for line in lines))


def _parts(records: Records, rows: Int64[np.ndarray, " m"]) -> Iterator[Part]:
    offsets, more = records.caption_offsets, records.more_views
    has_columns, kept = bool(records.columns.names), set(rows.tolist())
    columns = (row for place, row in enumerate(records.columns.rows()) if place in kept)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        counts = offsets[some + 1] - offsets[some]
        captions = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in some])
        views = (some[:, None] * more + np.arange(more)).ravel()
        yield Part(
            np.asarray(records.image_tokens[some], np.int32),
            np.asarray(records.text_tokens[captions], np.int32),
            np.asarray(records.text_lengths[captions], np.int32),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.asarray(records.caption_weights[captions], np.float32),
            [records.split_names[number] for number in records.split[some]],
            [dict(records.examples[int(row)]) for row in some],
            view_tokens=None
            if records.view_tokens is None
            else np.asarray(records.view_tokens[views], np.int32),
            pixel_hashes=None
            if records.pixel_hashes is None
            else np.asarray(records.pixel_hashes[some], np.uint64),
            columns=list(islice(columns, len(some))) if has_columns else None,
        )


if __name__ == "__main__":
    import runtime
    from command_line.parser import run

    runtime.prepare()
    run(main, FilterConfig, prog="python -m data.filter", about=__doc__ or "", first=FIRST_IN_HELP)
