"""The training examples of token records as one Parquet table: captions and image tokens, in the
layout that `python -m data.encoded` reads."""

from pathlib import Path

import numpy as np

from common.split_names import TRAIN
from data.records import Records
from data.text.words import captions_of

EXAMPLES_FILE = "examples.parquet"
MAX_EXAMPLES = 1_000_000
KEPT = ("concept", "style", "tone")
"""Attributes of examples that go along, where there are some."""


def write_examples(records: Records, path: Path) -> None:
    """Write the table. Raises ValueError for too many examples, or for a tokenizer that cannot give
    back its captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, offsets = records.rows(TRAIN), records.caption_offsets
    captions = captions_of(records, rows) if len(rows) <= MAX_EXAMPLES else None
    if captions is None:
        many = len(rows) > MAX_EXAMPLES
        why = f"{len(rows):,} of them" if many else "their tokenizer has no tokenizer.json"
        raise ValueError(
            f"the examples of {records.folder} are not written: {why}; omit --examples"
        )
    spans = [range(offsets[row], offsets[row + 1]) for row in rows]
    table = {
        "caption": pa.array(captions),
        "weights": pa.array([records.caption_weights[span].tolist() for span in spans]),
        "encoding": pa.array(list(np.asarray(records.image_tokens[rows], np.uint32))),
        "split": pa.array([TRAIN] * len(rows)),
    }
    for name in KEPT:
        values = [records.examples[row].get(name) for row in rows]
        if any(values):
            table[name] = pa.array(values)
    with path.open("wb") as file:  # pyarrow opens only names that are UTF-8
        pq.write_table(pa.table(table), file, compression="zstd")
