"""The training examples of token records as one Parquet table: captions and image tokens, in the
layout that `python -m data.encoded` reads."""

from pathlib import Path

import numpy as np

from data.records import Records
from split_names import TRAIN

EXAMPLES_FILE = "examples.parquet"
MAX_EXAMPLES = 1_000_000
KEPT = ("concept", "style", "tone")
"""Attributes of examples that go along, where there are some."""


def write_examples(records: Records, path: Path) -> int:
    """Write the table, and return its number of rows. Raises ValueError for too many examples, or
    for a tokenizer that cannot give back its captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tokenizers

    rows = records.rows(TRAIN)
    file = records.tokenizer_folder / "tokenizer.json"
    if len(rows) > MAX_EXAMPLES or not file.is_file():
        why = f"{len(rows):,} of them" if file.is_file() else f"{file} is missing"
        raise ValueError(
            f"the examples of {records.folder} are not written: {why}; omit --examples"
        )
    offsets, lengths = records.caption_offsets, records.text_lengths
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    spans = [range(offsets[row], offsets[row + 1]) for row in rows]
    read = [[records.text_tokens[i, : lengths[i]].tolist() for i in span] for span in spans]
    table = {
        "caption": pa.array([tokenizer.decode_batch(texts) for texts in read]),
        "weights": pa.array([records.caption_weights[span].tolist() for span in spans]),
        "encoding": pa.array(list(np.asarray(records.image_tokens[rows], np.uint32))),
        "split": pa.array([TRAIN] * len(rows)),
    }
    for name in KEPT:
        values = [records.examples[row].get(name) for row in rows]
        if any(values):
            table[name] = pa.array(values)
    pq.write_table(pa.table(table), path, compression="zstd")
    return len(rows)
