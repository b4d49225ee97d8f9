"""Weights of another run: equal shapes are copied, tables may grow or shrink, others are
refused."""

import numpy as np
import pytest

from training.saved.finetuning import POSITIONS, fit_params, resize_grid


def tree(rows: int, classes: int, dim: int = 2, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    make = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    return {
        "text_embedding": {"tokens": make(rows, dim)},
        "image_embedding": {"tokens": make(classes + 1, dim)},
        "encoder": {"run0": {"kernel": make(3, dim, dim)}},
        "head": {"kernel": make(dim, classes)},
    }


def test_arrays_that_fit_are_taken_bit_for_bit() -> None:
    found, lines = fit_params(tree(5, 4), tree(5, 4, seed=1), {})
    np.testing.assert_array_equal(
        found["encoder"]["run0"]["kernel"], tree(5, 4)["encoder"]["run0"]["kernel"]
    )
    assert lines == []


def test_tables_keep_the_rows_that_both_have_and_are_named() -> None:
    old, new = tree(5, 4), tree(7, 3, seed=1)
    found, lines = fit_params(old, new, {"image_embedding/tokens": (4, 3)})
    text = found["text_embedding"]["tokens"]
    np.testing.assert_array_equal(text[:5], old["text_embedding"]["tokens"])
    np.testing.assert_array_equal(text[5:], new["text_embedding"]["tokens"][5:])
    np.testing.assert_array_equal(found["head"]["kernel"], old["head"]["kernel"][:, :3])
    images = found["image_embedding"]["tokens"]
    np.testing.assert_array_equal(images[:3], old["image_embedding"]["tokens"][:3])
    np.testing.assert_array_equal(images[3], old["image_embedding"]["tokens"][4])  # the start
    assert lines == [
        "head/kernel has 3 rows instead of 4: 3 kept",
        "image_embedding/tokens has 4 rows instead of 5: 4 kept",
        "text_embedding/tokens has 7 rows instead of 5: 5 kept, 2 are new",
    ]


def test_the_old_start_token_s_row_becomes_the_new_one_s() -> None:
    old, new = tree(5, 4), tree(5, 6, seed=1)
    found, _ = fit_params(old, new, {"image_embedding/tokens": (4, 6)})
    images = found["image_embedding"]["tokens"]
    np.testing.assert_array_equal(images[6], old["image_embedding"]["tokens"][4])
    np.testing.assert_array_equal(images[4], new["image_embedding"]["tokens"][4])


def centres(rows: int, columns: int) -> np.ndarray:
    """The coordinates, in 0..1, of the centres of a grid's cells, row-major."""
    down, along = ((np.arange(n, dtype=np.float32) + 0.5) / n for n in (rows, columns))
    return np.stack(np.meshgrid(down, along, indexing="ij"), -1).reshape(-1, 2)


@pytest.mark.parametrize(("before", "after"), [((8, 8), (16, 16)), ((4, 6), (12, 3))])
def test_positions_keep_their_places_in_a_finer_or_coarser_grid(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    offset = np.full((2, 2), 7, np.float32)  # BART's rows before the positions
    old = {"image_embedding": {"positions": np.concatenate([offset, centres(*before)])}}
    found, (line,) = resize_grid(old, before, after, first=2)
    new = found["image_embedding"]["positions"]
    np.testing.assert_array_equal(new[:2], offset)
    lowest, highest = centres(*before).min(0), centres(*before).max(0)
    wanted = centres(*after).clip(lowest, highest)  # nothing is known beyond the outer centres
    np.testing.assert_allclose(new[2:], wanted, atol=1e-6)
    assert line.startswith(f"{POSITIONS}: the grid of {before[0]} × {before[1]} image tokens")


def test_nothing_is_resized_in_an_equal_grid_or_without_learnt_positions() -> None:
    plain = tree(5, 4)
    assert resize_grid(plain, (2, 2), (4, 4), 0) == (plain, [])
    placed = {"image_embedding": {"positions": centres(2, 2)}}
    assert resize_grid(placed, (2, 2), (2, 2), 0) == (placed, [])


def test_anything_else_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"encoder/run0/kernel is float32\[3,2,2\] there and"):
        fit_params(
            tree(5, 4), {**tree(5, 4), "encoder": {"run0": {"kernel": np.zeros((4, 2, 2))}}}, {}
        )
    with pytest.raises(ValueError, match=r"text_embedding/tokens is float32\[5,2\] there"):
        fit_params(
            {**tree(5, 4)}, {**tree(5, 4), "text_embedding": tree(5, 4, 3)["text_embedding"]}, {}
        )
    with pytest.raises(ValueError, match="extra/bias have no place in this model"):
        fit_params({**tree(5, 4), "extra": {"bias": np.zeros(2)}}, tree(5, 4), {})
    with pytest.raises(ValueError, match="extra/bias are not in these weights"):
        fit_params(tree(5, 4), {**tree(5, 4), "extra": {"bias": np.zeros(2)}}, {})
