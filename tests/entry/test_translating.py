"""Starting from weights for another VQGAN: tokens are translated by the pictures they decode to."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from common.trees import named_leaves
from data.records import Records, open_records
from starting import translating
from starting.translating import TABLES, token_shares, translate
from tests.entry.conftest import MODEL
from tests.tiny import first_params
from vqgan import pretrained

ORDER = np.random.default_rng(3).permutation(32)


@pytest.fixture(scope="module")
def records(records_folder: Path) -> Records:
    return open_records(records_folder)


@pytest.fixture(scope="module")
def renumbered(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records' VQGAN with its codes in another order: code i becomes ORDER[i]."""
    config, params = pretrained.load(records.vqgan_folder)
    folder = tmp_path_factory.mktemp("renumbered") / "vqgan"
    codes = np.empty_like(params["codebook"])
    codes[ORDER] = params["codebook"]
    pretrained.save(folder, config, {**params, "codebook": codes})
    return folder


def test_shares_follow_a_new_numbering(records: Records, renumbered: Path) -> None:
    ours = token_shares([records], records.vqgan_folder)
    theirs = token_shares([records], renumbered)
    np.testing.assert_array_equal(theirs[:, ORDER], ours)
    np.testing.assert_allclose(ours.sum(1), 1, rtol=1e-6)
    assert (ours.max(1) == 1).any()  # some tokens always become the same token


def test_rows_are_the_means_of_those_that_paint_alike(records: Records, renumbered: Path) -> None:
    params = first_params(MODEL)
    translated, (line,) = translate(params, params, MODEL, renumbered, [records])
    assert "each of its 32 image tokens begins as the mean of those that decode alike" in line
    shares = token_shares([records], renumbered)
    before, after = dict(named_leaves(params)), dict(named_leaves(translated))
    for name, axis in TABLES.items():
        if name in before:
            old, new = (np.moveaxis(np.asarray(t[name]), axis, 0) for t in (before, after))
            np.testing.assert_allclose(new[:32], shares @ old[:32], rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(new[32:], old[32:])  # the start token included
    others = before.keys() - TABLES.keys()
    assert others
    assert all(np.array_equal(before[n], after[n]) for n in others)


def test_nothing_changes_with_the_same_vqgan(records: Records, tmp_path: Path) -> None:
    pretrained.save(tmp_path / "again", *pretrained.load(records.vqgan_folder))
    params = first_params(MODEL)
    translated, lines = translate(params, params, MODEL, tmp_path / "again", [records])
    assert translated is params
    assert not lines


def test_nothing_changes_with_another_decoder_of_the_same_tokens(
    records: Records, tmp_path: Path
) -> None:
    config, params = pretrained.load(records.vqgan_folder)
    decoder = jax.tree.map(lambda x: 2 * x, params["decoder"])
    other = replace(config, tried_codes=3)
    pretrained.save(tmp_path / "better", other, {**params, "decoder": decoder})
    start = first_params(MODEL)
    translated, lines = translate(start, start, MODEL, tmp_path / "better", [records])
    assert translated is start
    assert not lines


def test_nothing_changes_with_larger_pictures_of_the_same_tokens(
    records: Records, tmp_path: Path
) -> None:
    config, params = pretrained.load(records.vqgan_folder)
    larger = replace(config, image_size=2 * config.image_size)
    pretrained.save(tmp_path / "larger", larger, params)
    start = first_params(MODEL)
    translated, lines = translate(start, start, MODEL, tmp_path / "larger", [records])
    assert translated is start
    assert not lines


def test_a_table_that_words_share_is_refused(records: Records, renumbered: Path) -> None:
    shared = replace(
        MODEL, tying="all", image_vocab_size=300, decoder_start_token_id=299, text_vocab_size=300
    )
    params = jax.tree.map(np.asarray, first_params(MODEL))
    with pytest.raises(ValueError, match=f"encode with --vqgan {renumbered}"):
        translate(params, params, shared, renumbered, [records])


def test_a_vqgan_of_another_grid_is_read_at_the_nearest_places(
    records: Records, tmp_path: Path
) -> None:
    config, params = pretrained.load(records.vqgan_folder)
    pretrained.save(tmp_path / "large", replace(config, image_size=16), params)
    shares = token_shares([records], tmp_path / "large")
    assert shares.shape == (32, 32)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)


def test_tokens_of_every_folder_are_seen(
    records: Records, renumbered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that only the second folder has does not begin as the mean of all. The first folder
    takes nothing from what is read of the second."""
    rows = records.rows("train")
    monkeypatch.setattr(translating, "TOKENS", len(rows) * records.image_length)
    tokens = np.array(records.image_tokens)
    tokens[rows] = tokens[rows[0], 0]
    first = replace(records, image_tokens=tokens)
    both, alone = (token_shares(some, renumbered) for some in ([first, records], [records]))
    others = np.setdiff1d(records.image_tokens[rows], first.image_tokens[rows])
    assert len(others)
    np.testing.assert_array_equal(both[others], alone[others])
