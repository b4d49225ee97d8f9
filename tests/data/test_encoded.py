"""data.encoded: tables of captions and codes, as dalle-mini wrote them, become records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import encoded
from data.encoded import EncodedConfig
from data.looking.rules import keep_for_training
from data.records import open_whole
from tests.data.layouts import write_parquet

VQGAN = "vqgan/openmoji"  # 64 of 1,024 codes
CODES = np.random.default_rng(0).integers(0, 1024, (12, 64)).tolist()
CAPTIONS = [f"a bird number {i}" for i in range(12)]


def table(path: Path, codes: list[Any], captions: list[Any] = CAPTIONS) -> Path:
    """Write a table in the format of its suffix."""
    if path.suffix == ".parquet":
        write_parquet(path, {"caption": captions, "encoding": codes})
    elif path.suffix == ".jsonl":
        rows = zip(captions, codes, strict=True)
        path.write_text("".join(json.dumps({"caption": a, "encoding": b}) + "\n" for a, b in rows))
    else:
        rows = zip(captions, codes, strict=True)
        path.write_text("caption\tencoding\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.tsv"])
def test_codes_become_records_as_they_are(name: str, tmp_path: Path) -> None:
    path, out = table(tmp_path / name, CODES), tmp_path / "records"
    encoded.main(EncodedConfig((str(path),), VQGAN, str(out), held_out=0.3, vocab_size=300))
    records = open_whole(out)
    assert records.image_tokens.tolist() == CODES
    assert [example["caption"] for example in records.examples] == CAPTIONS
    assert records.codebook_size == 1024
    assert 0 < len(records.rows("held_out")) < 12
    assert (records.folder / "vqgan" / "config.json").is_file()


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_the_other_columns_are_kept_for_filters(name: str, tmp_path: Path) -> None:
    path, out = tmp_path / name, tmp_path / "records"
    columns = {"caption": CAPTIONS, "encoding": CODES, "score": [i / 8 for i in range(12)]}
    columns |= {"licence": ["cc0", None] * 6, "tags": [["a", "b"]] * 12}
    if name == "a.parquet":
        write_parquet(path, columns)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoded.main(EncodedConfig((str(path),), VQGAN, str(out), held_out=0.0, vocab_size=300))
    records = open_whole(out)
    assert records.columns.names == {"caption", "score", "licence", "tags"}  # not the codes
    assert list(records.columns.values("score")) == columns["score"]
    assert list(records.columns.values("licence")) == columns["licence"]
    assert list(records.columns.values("tags")) == ['["a", "b"]'] * 12
    kept, _ = keep_for_training(records, ("score>=1", "licence=cc0"))
    assert kept.rows("train").tolist() == [8, 10]


def test_rows_without_codes_or_caption_are_skipped_and_named(tmp_path: Path) -> None:
    codes, captions = [None, *CODES[1:]], [*CAPTIONS[:5], " ", *CAPTIONS[6:]]
    path, out = table(tmp_path / "a.jsonl", codes, captions), tmp_path / "records"
    encoded.main(EncodedConfig((str(path),), VQGAN, str(out), vocab_size=300))
    assert len(open_whole(out)) == 10
    bad = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    assert [(sample["picture"], sample["reason"]) for sample in bad] == [
        ("a.jsonl row 1", "no codes"),
        ("a.jsonl row 6", "no caption"),
    ]


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        ([[1] * 256] * 12, r"row 1 has 256 codes, and a picture of vqgan/openmoji has 64"),
        ([[16383] * 64] * 12, r"row 1 holds the code 16,383, and vqgan/openmoji has 1,024 codes"),
        ([[-1] * 64] * 12, "holds the code -1"),
        ([[2**63] * 64] * 12, "holds the code 2,147,483,647"),
        ([["x"]] * 12, "nothing to train on: 0 usable rows, 12 without"),
    ],
)
def test_codes_of_another_vqgan_are_refused(codes: list[Any], why: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", codes)
    with pytest.raises(ValueError, match=why):
        encoded.main(EncodedConfig((str(path),), VQGAN, str(tmp_path / "records")))
    assert not (tmp_path / "records").exists()


def test_a_table_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", CODES)
    with pytest.raises(ValueError, match="no column 'codes'; its columns are caption, encoding"):
        encoded.main(EncodedConfig((str(path),), VQGAN, str(tmp_path / "r"), column="codes"))
    with pytest.raises(ValueError, match="no table in"):
        encoded.main(EncodedConfig((str(tmp_path / "none"),), VQGAN, str(tmp_path / "r")))
