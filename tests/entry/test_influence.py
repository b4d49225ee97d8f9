"""Influence of words: zero if the model ignores the text, else the change when a word is hidden."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drawing.drawer import make_drawer
from drawing.influence import influence, light_up
from drawing.opening import open_checkpoint
from model import transformer


@pytest.fixture(scope="module")
def opened(run_folder: Path) -> tuple[Any, Any, Any]:
    found = open_checkpoint(run_folder)
    model = transformer.build(found.model)
    return model, found.params, make_drawer(model, found.sampling, found.folder, 1)


def test_a_word_s_influence_is_what_hiding_it_changes(opened: Any) -> None:
    model, params, drawer = opened
    drawn = np.array([3, 1, 4, 1])
    words, nats = influence(model, params, drawer, "dark bar", drawn)
    assert words == ["dark", "bar"]
    assert nats.shape == (2, 2, 2)
    text, mask, _ = drawer.tokenizer.encode(["dark bar"], 8)
    hidden = mask.copy()
    hidden[0, : drawer.tokenizer.encode(["dark"], 8)[1].sum() - 1] = False
    inputs = jnp.array([[model.decoder_start_token_id, 3, 1, 4]])
    chosen = jnp.asarray(drawn)[None, :, None]
    with_it, without = (
        jnp.take_along_axis(
            jax.nn.log_softmax(model.apply(params, jnp.asarray(text), jnp.asarray(shown), inputs)),
            chosen,
            -1,
        )
        for shown in (mask, hidden)
    )
    np.testing.assert_allclose(nats[0].reshape(-1), (with_it - without)[0, :, 0], atol=1e-5)
    assert np.abs(nats).max() > 0


def test_a_picture_is_bright_where_a_word_counts() -> None:
    picture = np.full((4, 4, 3), 200, np.uint8)
    lit = light_up(picture, np.array([[0.0, 2.0], [-1.0, 1.0]]), most=2.0)
    assert lit[0, 0, 0] == lit[3, 0, 0] == 40
    assert lit[0, 3, 0] == 200
    assert lit[3, 3, 0] == 120
