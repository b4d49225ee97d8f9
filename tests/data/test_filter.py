"""data.filter: what each rule removes; the filtered records are complete."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.split_names import HELD_OUT, TRAIN
from data import filter as filtering
from data.encoding.writing import Part, new_records
from data.filter import FilterConfig
from data.looking.duplicates import near, perceptual_hash, repeated
from data.looking.rule_columns import parse_rule, script_of, value_of
from data.records import open_whole
from data.report import read_again

CAPTIONS = ["a red bird", "bird", "красная птица", "a red bird of the north", "one owl", "a cat"]
N = len(CAPTIONS)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Six examples with two captions and two views each. The last picture repeats the first."""
    examples = [
        {
            "key": str(i),
            "source_index": i,
            "file": f"{i}.png",
            "member": "",
            "caption": caption,
            "split": TRAIN if i else HELD_OUT,
            "width": str(100 * (i + 1)),
            "height": "100",
            **({"score": str(i / 10)} if i != 2 else {}),
        }
        for i, caption in enumerate(CAPTIONS)
    ]
    text = np.arange(2 * N * 4, dtype=np.int32).reshape(2 * N, 4)
    part = Part(
        np.arange(N * 4, dtype=np.int32).reshape(N, 4),
        text,
        np.full(2 * N, 4, np.int32),
        np.arange(0, 2 * N + 1, 2, dtype=np.int64),
        np.linspace(1, 2, 2 * N, dtype=np.float32),
        [str(example["split"]) for example in examples],
        examples,
        view_tokens=np.arange(100, 100 + N * 4, dtype=np.int32).reshape(N, 4),
        pixel_hashes=np.array([7, 1, 2, 3, 4, 7], np.uint64),
    )
    out = tmp_path / "records"
    with new_records(
        out, [HELD_OUT, TRAIN], source="x", codebook_size=200, text_vocab_size=100
    ) as writer:
        writer.add(part)
    return out


def run(records: Path, *rules: str, **settings: object) -> tuple[Path, list[str]]:
    """Filter the records. Returns the new folder and the keys of the kept examples."""
    out = records.parent / f"out{len(list(records.parent.iterdir()))}"
    filtering.main(FilterConfig(str(records), str(out), rules, **settings))  # type: ignore[arg-type]
    return out, [example["key"] for example in open_whole(out).examples]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        *(("words==2", "245"), ("words>=2", "02345"), ("words<=2", "1245"), ("characters<5", "1")),
        *(("script=latin", "01345"), ("script!=latin", "2"), ("aspect<=3", "012")),
        *(("score>=0.3", "345"), ("score<0.2", "01"), ("score=0.40", "4"), ("key!=3", "01245")),
        *(("caption~^a ", "035"), ("caption!~bird", "245"), ("width>350", "345")),
    ],
)
def test_each_rule_keeps_what_it_says(rule: str, left: str, records: Path) -> None:
    _, keys = run(records, rule, exact_duplicates=False)
    assert "".join(keys) == left


def test_the_kept_rows_are_the_old_ones_and_the_table_stays_with_them(records: Path) -> None:
    out, keys = run(records, "words>=2", "score>=0.1")
    assert keys == ["3", "4"]
    before, after = open_whole(records), open_whole(out)
    for name, rows in (("image_tokens", [3, 4]), ("view_tokens", [3, 4]), ("split", [3, 4])):
        assert (after.arrays[name] == before.arrays[name][rows]).all(), name
    for name in ("text_tokens", "text_lengths", "caption_weights"):
        assert (after.arrays[name] == before.arrays[name][6:10]).all(), name
    assert after.caption_offsets.tolist() == [0, 2, 4]
    assert after.sources == before.sources
    assert [(one["rule"], one["looked_at"], one["removed"]) for one in after.about["filters"]] == [
        ("exact duplicates", 6, 1),
        ("words>=2", 5, 1),
        ("score>=0.1", 4, 2),
    ]
    assert after.about["filters"][2]["without_column"] == 1
    lines = (out / "filtered.jsonl").read_text().splitlines()
    removed = {one["key"]: one["rule"] for one in map(json.loads, lines)}
    assert removed == {
        "5": "exact duplicates",
        "1": "words>=2",
        "0": "score>=0.1",
        "2": "score>=0.1",
    }


def test_tables_of_several_filterings_add_up(records: Path) -> None:
    first, _ = run(records, "words>=2")
    second, _ = run(first, "score>=0.1")
    rules = [one["rule"] for one in open_whole(second).about["filters"]]
    assert rules == ["exact duplicates", "words>=2", "exact duplicates", "score>=0.1"]


def test_examples_without_a_value_stay_only_when_asked(records: Path) -> None:
    _, keys = run(records, "score>=0.1", missing=True)
    assert keys == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (["words"], "none of the signs"),
        (["words>=many"], "'many' is not a finite number"),
        (["words>=1e999"], "'1e999' is not a finite number"),
        (["words=>3"], "the sign >= has = behind it"),
        (["caption~("], r"caption~\("),
        (["nsfw<0.5"], r"no example has the column nsfw; there are .*score"),
        (["caption>3"], "column caption holds 'a red bird', which is not a number"),
        (["words>99"], r"leave nothing to train on: words>99 removed 5 of 5"),
    ],
)
def test_rules_that_cannot_be_are_refused_by_name(
    rules: list[str], why: str, records: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        run(records, *rules)
    assert not [one for one in records.parent.iterdir() if one.name.startswith("out")]


@pytest.fixture
def source(records: Path) -> Path:
    """The folder of the records' pictures; 4.png is a smaller 1.png."""
    folder = records.parent / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, caption in enumerate(CAPTIONS):
        motif = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((96, 96))
        motif.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    Image.open(folder / "1.png").resize((50, 50)).save(folder / "4.png")
    about = json.loads((records / "records.json").read_text())
    (records / "records.json").write_text(json.dumps({**about, "sources": [str(folder)]}))
    return folder


def test_near_duplicates_are_found_in_the_source(source: Path, records: Path) -> None:
    assert source.is_dir()
    assert run(records, near_duplicates=4)[1] == ["0", "1", "2", "3"]
    assert run(records, near_duplicates=0)[1] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("change", ["added", "described anew"])
def test_pictures_of_another_source_decide_nothing(
    change: str, source: Path, records: Path
) -> None:
    if change == "added":
        (source / "0.png").rename(source / "6.png")
        (source / "0.txt").rename(source / "6.txt")
    else:
        (source / "2.txt").write_text("another picture")
    with pytest.raises(ValueError, match="the source has changed, encode again"):
        run(records, near_duplicates=4)
    rows = range(len(CAPTIONS))
    shown, why = read_again(open_whole(records), rows, 8)
    assert not shown
    assert "the source has changed, encode again" in why


def test_pictures_that_cannot_be_read_any_more_stay_and_are_named(
    source: Path, records: Path, capsys: pytest.CaptureFixture
) -> None:
    (source / "4.png").write_bytes(b"broken")
    assert run(records, near_duplicates=4)[1] == ["0", "1", "2", "3", "4"]
    assert "near duplicates: skipped 1 of 5 pictures: 4 (not a JPEG" in capsys.readouterr().err
    for path in source.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"not the source .* now: skipped 5 of 5 pictures: 0, "):
        run(records, near_duplicates=4)


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_near_hashes_are_those_of_a_search_through_all_pairs(bits: int) -> None:
    rng = np.random.default_rng(bits)
    hashes = [int(x) for x in rng.integers(0, 1 << 63, 40)]
    for _ in range(160):
        code = hashes[rng.integers(len(hashes))]
        for place in rng.integers(0, 64, rng.integers(0, 10)):
            code ^= 1 << int(place)
        hashes.append(code)
    originals: list[int] = []
    copies = []
    for place, code in enumerate(hashes):
        if any((code ^ hashes[i]).bit_count() <= bits for i in originals):
            copies.append(place)
        else:
            originals.append(place)
    assert [place for place, _ in near(hashes, bits)] == copies


def test_a_perceptual_hash_is_nearly_the_same_for_copies_alone() -> None:
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(8)]
    hashes = [perceptual_hash(np.asarray(picture.resize((64, 64)))) for picture in pictures]
    for picture, known in zip(pictures, hashes, strict=True):
        for size in (48, 200):
            copy = np.asarray(picture.resize((64, 64)).resize((size, size)))
            assert (perceptual_hash(copy) ^ known).bit_count() <= 4
    pairs = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(pairs) > 12


def test_the_first_of_equal_hashes_is_no_repeat() -> None:
    hashes = np.array([3, 1, 3, 3, 2, 1], np.uint64)
    assert repeated(hashes).tolist() == [False, False, True, True, False, True]


def test_rules_and_derived_columns_are_read() -> None:
    rule = parse_rule(" a column >= -1e3 ")
    assert (rule.column, rule.sign, rule.operand) == ("a column", ">=", "-1e3")
    assert parse_rule("url~a=b").sign == "~"
    assert [script_of(text) for text in ("a b", "鸟", "123", "ав")] == [
        *("latin", "cjk", "none", "cyrillic"),
    ]
    row = {"caption": "a b", "width": "30", "height": "60", "words": ""}
    assert [value_of(row, name) for name in ("words", "aspect", "nothing")] == [2, 2.0, None]
