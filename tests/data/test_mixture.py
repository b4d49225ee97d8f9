"""Several folders of records, read as one stream."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data import mixture
from data.mixture import Mixture, RecordSets, open_sets, open_training, parse_records
from data.records import Records
from tests.data.test_batches import make_records


def sets_of(*sizes: int, weights: tuple[int, ...]) -> RecordSets:
    """Record folders. Half of the examples of folder i are for training; its tokens start at
    1000 i."""
    parts = []
    for number, size in enumerate(sizes):
        records = make_records(size)
        tokens = records.image_tokens + np.uint16(1000 * number)
        parts.append(replace(records, image_tokens=tokens))
    return RecordSets(tuple(parts), weights)


def read(stream: Any, steps: range) -> np.ndarray:
    return np.concatenate([stream.at(step)["image_tokens"][:, 0] for step in steps])


def open_mixture(sets: RecordSets, size: int, **more: Any) -> Mixture:
    found = open_training(sets, lambda step: size * step, 3, **more)
    assert isinstance(found, Mixture)
    return found


@pytest.mark.parametrize("window", [0, 2])
def test_each_example_comes_once_in_every_epoch_of_its_own_folder(window: int) -> None:
    sets = sets_of(40, 26, weights=(3, 2))
    found = read(open_mixture(sets, 5, window=window), range(200))
    for number, (records, weight) in enumerate(zip(sets.parts, sets.weights, strict=True)):
        own = found[found // 1000 == number]
        assert len(own) == 200 * weight  # every cycle of 5 has the right share
        rows = records.rows("train") + 1000 * number
        for epoch in range(len(own) // len(rows)):
            part = own[epoch * len(rows) : (epoch + 1) * len(rows)]
            assert sorted(part.tolist()) == rows.tolist()


def test_folders_without_weights_are_read_whole_in_every_epoch_of_all() -> None:
    sets = sets_of(40, 26, weights=(20, 13))
    found = read(open_mixture(sets, 33), range(4)).reshape(4, 33)
    every = sorted([*range(1, 40, 2), *range(1001, 1026, 2)])
    assert [sorted(epoch.tolist()) for epoch in found] == [every] * 4
    assert len({tuple(epoch) for epoch in found}) == 4


def test_any_step_is_the_same_whatever_was_read_before_and_whoever_reads_it() -> None:
    sets = sets_of(40, 26, 10, weights=(5, 2, 1))
    straight = open_mixture(sets, 12)
    batches = [straight.at(step) for step in range(60)]
    halves = [
        open_mixture(sets, 12, share=share)
        for share in (lambda n: np.arange(0, n, 2), lambda n: np.arange(1, n, 2))
    ]
    for step in np.random.default_rng(0).integers(0, 60, 50):
        again = open_mixture(sets, 12).at(int(step))
        jax.tree.map(np.testing.assert_array_equal, again, batches[step])
        parts = [half.at(int(step)) for half in halves]
        for i, part in enumerate(parts):
            for name in ("image_tokens", "text_tokens", "text_mask", "example_index"):
                np.testing.assert_array_equal(part[name], batches[step][name][i::2])
    larger = read(open_mixture(sets, 36), range(20))
    np.testing.assert_array_equal(larger, read(straight, range(60)))


@pytest.mark.parametrize("window", [0, 2])
def test_with_weights_and_views_50_resumes_by_1_2_and_4_processes_read_the_same(
    window: int,
) -> None:
    sets, views = sets_of(40, 26, weights=(3, 2)), np.array([1, 2, 3], np.uint16) * 10_000
    with_views = (
        replace(one, view_tokens=(one.image_tokens[:, None] + views[:, None]).reshape(-1, 2))
        for one in sets.parts
    )
    sets = replace(sets, parts=tuple(with_views))
    straight = open_mixture(sets, 20, window=window)
    batches = [straight.at(step) for step in range(130)]
    for count in (1, 2, 4):
        parts = [
            open_mixture(sets, 20, window=window, share=lambda n, i=i, c=count: np.arange(i, n, c))
            for i in range(count)
        ]
        for step in np.random.default_rng(count).integers(0, 130, 50):  # in no order
            for i, part in enumerate(parts):
                for name, array in part.at(int(step)).items():
                    np.testing.assert_array_equal(array, batches[step][name][i::count])
    found = np.concatenate([batch["image_tokens"][:, 0] for batch in batches])
    assert set((found // 10_000).tolist()) == {0, 1, 2, 3}  # all views
    for number, records in enumerate(sets.parts):
        own = found[found % 10_000 // 1000 == number] % 10_000
        rows = records.rows("train") + 1000 * number
        for epoch in own[: len(own) // len(rows) * len(rows)].reshape(-1, len(rows)):
            assert sorted(epoch.tolist()) == rows.tolist()


def test_one_folder_alone_has_the_order_that_it_always_had() -> None:
    from data.batches import open_batches

    sets = sets_of(40, weights=(20,))
    expected = open_batches(sets.first, "train", 5, 3)
    stream = open_training(sets, lambda step: 5 * step, 3)
    np.testing.assert_array_equal(read(stream, range(20)), read(expected, range(20)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("records/a", [("records/a", None)]),
        ("[a:3,b:1]", [("a", Fraction(3)), ("b", Fraction(1))]),
        ("[a:0.5, records/b:1e1]", [("a", Fraction(1, 2)), ("records/b", Fraction(10))]),
        ("['a','b']", [("a", None), ("b", None)]),
    ],
)
def test_folders_and_weights_are_read(text: str, expected: list) -> None:
    assert parse_records(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a:3,b]", "give all folders a weight, or none"),
        ("[a:x,b:1]", "'x' is not a weight, such as 3 or 0.5"),
        ("[a:1e999,b:1]", "'1e999' is not a weight"),  # 1e999999999 takes all memory
        ("[a:0,b:1]", "the weight of a is 0, not positive"),
        ("[a:-1,b:1]", "the weight of a is -1, not positive"),
        ("[]", "write it as"),
    ],
)
def test_other_words_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^data.records .*{message}"):
        parse_records(text)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RecordSets]:
    """`open_sets` for records in memory: folder a has 20 training examples, b has 13."""
    about = {"grid_size": 2, "codebook_size": 64, "text_length": 3, "vqgan_digest": "v"}

    def call(text: str, **changed: Any) -> RecordSets:
        def open_one(folder: str) -> Records:
            found = make_records({"a": 40, "b": 26}[folder])
            said = found.about | about | (changed if folder == "b" else {})
            return replace(found, folder=Path(folder), about=said | {"digest": folder})

        monkeypatch.setattr(mixture, "open_whole", open_one)
        return open_sets(text)

    return call


def test_weights_are_whole_numbers_of_a_cycle(opened: Callable[..., RecordSets]) -> None:
    assert opened("[a:3,b:1]").weights == (3, 1)
    assert opened("[a:0.75,b:0.25]").weights == (3, 1)
    assert opened("[a,b]").weights == (20, 13)
    assert opened("[a,b]").num_training == 33
    assert opened("a").digests == {"records": "a"}
    assert opened("[a:3,b:1]").digests != opened("[a:2,b:1]").digests
    with pytest.raises(ValueError, match="give weights with fewer digits"):
        opened("[a:0.12345678901234567,b:1]")


@pytest.mark.parametrize("name", ["grid_size", "codebook_size", "text_length", "vqgan_digest"])
def test_folders_of_another_make_are_refused_by_name(
    opened: Callable[..., RecordSets], name: str
) -> None:
    shown = "the VQGAN" if name == "vqgan_digest" else name
    with pytest.raises(ValueError, match=rf"^b has {shown} 7 and a \w+; encode it with --vqgan a"):
        opened("[a,b]", **{name: 7})
