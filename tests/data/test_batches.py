"""The order of the data, and the content of a batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data.batches import Batches, choice_batches, eval_batches, open_batches
from data.order import hash_of, order, windowed
from data.records import Records


def make_records(count: int = 50, weights: tuple[float, ...] = (0.7, 0.15, 0.15)) -> Records:
    """Records in which example i has image tokens (i, i) and captions that begin with the tokens
    4 i, 4 i + 1 … Odd i are training examples."""
    rows = count * len(weights)
    owner, which = np.divmod(np.arange(rows), len(weights))
    first = (owner * 4 + which).astype(np.uint16)
    return Records(
        folder=Path(),
        about={"split_names": ["held_out", "train"]},
        image_tokens=np.repeat(np.arange(count, dtype=np.uint16)[:, None], 2, axis=1),
        text_tokens=np.stack([first, np.ones_like(first), np.zeros_like(first)], axis=1),
        text_lengths=np.full(rows, 2, np.uint16),
        caption_offsets=np.arange(count + 1, dtype=np.int64) * len(weights),
        caption_weights=np.tile(np.array(weights, np.float32), count),
        split=np.arange(count, dtype=np.uint8) % 2,
    )


def read(batches: Batches, steps: int) -> np.ndarray:
    """The indices of the examples of the first `steps` batches, in order."""
    return np.concatenate([batches.at(step)["image_tokens"][:, 0] for step in range(steps)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1023, 1024, 1025, 70_001])
def test_every_epoch_is_a_permutation(count: int) -> None:
    for epoch in (0, 1, 1000):
        indices = order(3, np.arange(count) + epoch * count, count)
        np.testing.assert_array_equal(np.sort(indices), np.arange(count))


@pytest.mark.parametrize("count", [7, 90, 97, 1000, 12_345])
@pytest.mark.parametrize("window", [1, 10, 33])
def test_every_epoch_is_a_permutation_in_windows_too(count: int, window: int) -> None:
    epochs = [windowed(3, np.arange(count) + epoch * count, count, window) for epoch in (0, 1, 99)]
    for indices in epochs:
        np.testing.assert_array_equal(np.sort(indices), np.arange(count))
    assert len({tuple(one) for one in epochs}) == 3
    random = np.random.default_rng(0).integers(0, 100 * count, 50)
    alone = [int(windowed(3, np.array([x]), count, window)[0]) for x in random]
    assert alone == windowed(3, random, count, window).tolist()


def test_in_windows_a_stretch_of_the_stream_reads_few_neighbourhoods() -> None:
    count, window = 100_000, 500
    indices = windowed(0, np.arange(count), count, window)
    near = [len(np.unique(part // window)) for part in np.split(indices, 25)]  # of 8 windows each
    assert max(near) <= 2 * 8  # a window may begin anywhere, so it touches two
    assert np.corrcoef(np.arange(count), indices)[0, 1] < 0.5
    mixed = np.diff(indices[:4000] // window)
    assert (mixed != 0).mean() > 0.7  # neighbours in the stream come from different windows


def test_epochs_and_seeds_differ() -> None:
    orders = [order(seed, np.arange(100) + 100 * e, 100) for seed in (0, 1, -1) for e in range(3)]
    assert len({tuple(one) for one in orders}) == 9


def test_places_and_neighbours_are_even_over_many_epochs() -> None:
    count, epochs = 20, 20_000
    orders = order(5, np.arange(count * epochs), count).reshape(epochs, count)
    expected = epochs / count
    at_place = np.stack([np.bincount(orders[:, i], minlength=count) for i in range(count)])
    assert 0.75 < np.square(at_place - expected).mean() / expected < 1.25
    pairs = np.bincount(orders[:, 0] * count + orders[:, 1], minlength=count**2)
    pairs = pairs.reshape(count, count)[~np.eye(count, dtype=bool)]
    assert 0.75 < np.square(pairs - pairs.mean()).mean() / pairs.mean() < 1.25


def test_a_split_is_read_whole_and_alone_every_epoch() -> None:
    records = make_records()
    train = records.rows("train")
    examples = read(open_batches(records, "train", 5, seed=0), 10).reshape(2, 25)
    for epoch in examples:
        np.testing.assert_array_equal(np.sort(epoch), train)
    assert (examples[0] != examples[1]).any()


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    records = make_records()
    small, large = (open_batches(records, "train", size, seed=4) for size in (4, 12))
    for name in ("image_tokens", "text_tokens", "text_mask"):
        expected = np.concatenate([small.at(step)[name] for step in range(30)])
        found = np.concatenate([large.at(step)[name] for step in range(10)])
        np.testing.assert_array_equal(found, expected)


def test_growing_batches_leave_the_stream_as_it_is() -> None:
    records = make_records()
    before = [0, 4, 8, 12, 24, 36, 63, 90, 117]  # examples before each batch
    even = open_batches(records, "train", 9, seed=4)
    grown = open_batches(records, "train", before.__getitem__, seed=4)
    for name in ("image_tokens", "text_tokens", "text_mask"):
        expected = np.concatenate([even.at(step)[name] for step in range(13)])
        found = np.concatenate([grown.at(step)[name] for step in range(8)])
        np.testing.assert_array_equal(found, expected)
    assert grown.at(3)["example_index"].tolist() == list(range(12))


def test_any_step_is_the_same_whatever_was_read_before() -> None:
    records = make_records()
    walked, jumped = (open_batches(records, "train", 8, seed=1) for _ in range(2))
    for step in range(1001):
        last = walked.at(step)
    jax.tree.map(np.testing.assert_array_equal, jumped.at(1000), last)


def test_a_far_step_is_as_good_as_a_near_one() -> None:
    batch = open_batches(make_records(), "train", 25, seed=0).at(10**12)
    assert len(set(batch["image_tokens"][:, 0].tolist())) == 25


def test_captions_come_with_their_weights_and_change_with_the_epoch() -> None:
    batches = open_batches(make_records(), "train", 1000, seed=2)
    batch = [batches.at(step) for step in range(40)]
    first = np.concatenate([b["text_tokens"][:, 0] for b in batch])
    owner = np.concatenate([b["image_tokens"][:, 0] for b in batch])
    np.testing.assert_array_equal(first // 4, owner)
    share = np.bincount(first % 4, minlength=3) / len(first)
    np.testing.assert_allclose(share, [0.7, 0.15, 0.15], atol=0.01)
    one = first[owner == 3] % 4
    assert {0, 1, 2} == set(one.tolist())


def test_the_draw_among_captions_is_by_the_share_of_all_weights_before_it() -> None:
    """The draws equal those from the cumulative sums of all captions' weights."""
    records = make_records(400, weights=(0.5, 3.0, 1e-3, 0.25))
    records.caption_weights[:] = np.random.default_rng(0).uniform(0.1, 2, 1600)
    examples, epochs = np.arange(400), np.repeat(np.arange(4), 100)
    found = open_batches(records, "train", 8, seed=5)._one_caption(examples, epochs)
    sums = np.concatenate([[0.0], np.cumsum(records.caption_weights, dtype=np.float64)])
    below, total = sums[4 * examples], sums[4 * examples + 4]
    unit = (hash_of(5, 2, epochs, examples) >> np.uint64(11)) * 2.0**-53
    expected = np.searchsorted(sums, below + unit * (total - below), "right") - 1
    np.testing.assert_array_equal(found, expected)


def test_a_caption_of_weight_near_zero_is_next_to_never_read() -> None:
    batches = open_batches(make_records(weights=(1e-9, 1.0)), "train", 1000, seed=0)
    assert (batches.at(0)["text_tokens"][:, 0] % 4 == 1).all()


def test_all_views_are_drawn_equally_and_evaluation_sees_the_plain_one() -> None:
    records = make_records()
    views = np.stack([np.full((50, 2), 100 * v, np.uint16) for v in (1, 2, 3)], axis=1)
    views += records.image_tokens[:, None]
    records = replace(records, view_tokens=views.reshape(150, 2))
    batches = open_batches(records, "train", 25, seed=3)
    found = np.stack([batches.at(step)["image_tokens"] for step in range(400)])
    plain = open_batches(make_records(), "train", 25, seed=3)
    expected = np.stack([plain.at(step)["image_tokens"] for step in range(400)])
    np.testing.assert_array_equal(found % 100, expected)
    share = np.bincount(found[..., 0].ravel() // 100, minlength=4) / found[..., 0].size
    np.testing.assert_allclose(share, 0.25, atol=0.02)
    one = found[..., 0][found[..., 0] % 100 == 7] // 100
    assert {0, 1, 2, 3} == set(one.tolist())
    evaluated = next(iter(eval_batches(records, "train", 25)))["image_tokens"]
    assert evaluated.max() < 50


def test_a_batch_has_the_promised_arrays() -> None:
    batch = dict[str, Any](open_batches(make_records(), "train", 6, seed=0).at(0))
    assert {name: (a.dtype.name, a.shape) for name, a in batch.items()} == {
        "text_tokens": ("int32", (6, 3)),
        "text_mask": ("bool", (6, 3)),
        "image_tokens": ("int32", (6, 2)),
        "example_index": ("int32", (6,)),
    }
    assert batch["text_mask"].sum(axis=1).tolist() == [2] * 6
    assert batch["example_index"].tolist() == list(range(6))


def test_evaluation_reads_each_example_once_with_its_first_caption() -> None:
    records = make_records()
    batches = list(eval_batches(records, "held_out", 8))
    weight = np.concatenate([b["weight"] for b in batches])
    examples = np.concatenate([b["image_tokens"][:, 0] for b in batches])
    captions = np.concatenate([b["text_tokens"][:, 0] for b in batches])
    assert [len(b["weight"]) for b in batches] == [8] * 4
    np.testing.assert_array_equal(examples[weight == 1], records.rows("held_out"))
    np.testing.assert_array_equal(captions, examples * 4)


def test_evaluation_of_a_few_is_the_same_however_it_is_dealt() -> None:
    """Two processes read half of each batch. Examples beyond the wanted number do not count."""
    records = make_records()

    def read_with(size: int, share: Callable[[int], np.ndarray]) -> list[int]:
        batches = eval_batches(records, "held_out", size, most=10, share=share)
        return [int(x) for b in batches for x in b["image_tokens"][b["weight"] == 1, 0]]

    halves = [
        read_with(4, lambda size: np.arange(size // 2)),
        read_with(4, lambda size: np.arange(size // 2, size)),
    ]
    assert sorted(halves[0] + halves[1]) == read_with(7, np.arange)
    assert read_with(7, np.arange) == sorted(set(read_with(7, np.arange)))
    assert len(read_with(7, np.arange)) == 10


def test_evaluation_of_a_few_is_spread_over_a_sorted_split() -> None:
    records = make_records(4000)
    rows = records.rows("held_out")

    def read_most(most: int) -> list[int]:
        batches = eval_batches(records, "held_out", 64, most=most)
        return [int(x) for b in batches for x in b["image_tokens"][b["weight"] == 1, 0]]

    for most in (3, 256, 1999):
        few = read_most(most)
        assert len(set(few)) == most
        assert few == sorted(few)
        assert set(few) <= set(rows.tolist())
        assert abs(sum(x < rows[1000] for x in few) - most / 2) <= 1
    assert len({x % 8 for x in read_most(250)}) == 4  # not one of every eight rows
    assert read_most(5000) == rows.tolist()


def test_the_captions_of_other_pictures_do_not_depend_on_the_batches() -> None:
    """Captions begin with 4 times the number of their example."""
    records = make_records()

    def others_of(size: int, share: Callable[[int], np.ndarray]) -> dict[int, list[int]]:
        batches = choice_batches(records, "held_out", size, 3, most=10, share=share)
        rows = [
            (int(image[0]), (other[:, 0] // 4).tolist(), mask.sum(-1).tolist())
            for b in batches
            for image, other, mask, weight in zip(
                b["image_tokens"], b["other_tokens"], b["other_mask"], b["weight"], strict=True
            )
            if weight
        ]
        assert all(lengths == [2, 2, 2] for *_, lengths in rows)
        return {image: others for image, others, _ in rows}

    found = others_of(7, np.arange)
    assert len(found) == 10
    for own, others in found.items():
        assert len({own, *others}) == 4
        assert set(others) < set(found)
    halves = others_of(4, lambda size: np.arange(size // 2))
    assert halves | others_of(4, lambda size: np.arange(size // 2, size)) == found


def test_an_unknown_split_or_size_is_refused() -> None:
    with pytest.raises(ValueError, match="'tone' has no examples; there are: held_out, train"):
        open_batches(make_records(), "tone", 8, seed=0)
    with pytest.raises(ValueError, match="batch_size 0"):
        eval_batches(make_records(), "train", 0)
