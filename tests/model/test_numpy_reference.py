"""Blocks equal a plain NumPy transformer in float64, written from the papers' equations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.config import ModelConfig

Params = dict[str, Any]


def rms(x: np.ndarray, p: Params) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def turned(x: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
    """x [positions, channels] with rotary positions: a pair (i, i + half) is a complex number."""
    out, half = np.empty_like(x), x.shape[-1] // 2
    for n, (row, column) in enumerate(places):
        for i in range(half):
            if len({r for r, _ in places}) == 1:  # text
                angle = column * 10_000 ** (-i / half)
            else:
                quarter = half // 2
                angle = (row if i < quarter else column) * 10_000 ** (-(i % quarter) / quarter)
            z = (x[n, i] + 1j * x[n, i + half]) * np.exp(1j * angle)
            out[n, i], out[n, i + half] = z.real, z.imag
    return out


def attention(
    p: Params,
    x: np.ndarray,
    context: np.ndarray,
    visible: np.ndarray,
    heads: int,
    places: list[tuple[int, int]] | None,
) -> np.ndarray:
    """Attention of one example: x [q, d], context [k, d], visible [q, k]. Heads share keys if there
    are fewer key heads."""
    q, k, v = (a @ p[n]["kernel"] for n, a in (("q", x), ("k", context), ("v", context)))
    e = q.shape[-1] // heads
    groups = k.shape[-1] // e
    mixed = []
    for head in range(heads):
        group = head * groups // heads
        mine, theirs = q[:, head * e :][:, :e], k[:, group * e :][:, :e]
        if places is not None:
            mine, theirs = turned(mine, places), turned(theirs, places)
        scores = np.where(visible, mine @ theirs.T / np.sqrt(e), -np.inf)
        mixed.append(softmax(scores) @ v[:, group * e :][:, :e])
    return np.concatenate(mixed, -1) @ p["out"]["kernel"]


def swiglu(p: Params, x: np.ndarray) -> np.ndarray:
    up = x @ p["up"]["kernel"]
    return (up / (1 + np.exp(-up)) * (x @ p["gate"]["kernel"])) @ p["down"]["kernel"]


def reference_logits(
    config: ModelConfig, params: Params, text: np.ndarray, mask: np.ndarray, image: np.ndarray
) -> np.ndarray:
    """Logits of one example."""
    heads, parallel = config.num_heads, config.block == "parallel"
    rotary = config.positions == "rotary"

    def embed(p: Params, tokens: np.ndarray) -> np.ndarray:
        x = p["tokens"][tokens]
        x = x + p["positions"][: len(tokens)] if "positions" in p else x
        return rms(x, p["norm"]) if "norm" in p else x

    def layers(stack: Params, depth: int) -> list[Params]:
        return [jax.tree.map(lambda leaf: leaf[i], stack["run0"]) for i in range(depth)]  # noqa: B023

    t, n = len(text), len(image)
    x = embed(params["text_embedding"], text)
    seen = np.broadcast_to(mask[None], (t, t))
    places = [(0, i) for i in range(t)] if rotary else None
    for p in layers(params["encoder"], config.encoder_depth):
        h = rms(x, p["attention_residual"]["norm_before"])
        first = x + attention(p["attention"], h, h, seen, heads, places)
        h = h if parallel else rms(first, p["mlp_residual"]["norm_before"])
        x = first + swiglu(p["mlp"], h)
    states = rms(x, params["encoder_norm"])

    x = embed(params["image_embedding"], image)
    causal = np.tril(np.ones((n, n), bool))
    places = [divmod(i, config.grid_size) for i in range(n)] if rotary else None
    for p in layers(params["decoder"], config.decoder_depth):
        h = rms(x, p["attention_residual"]["norm_before"])
        x = x + attention(p["attention"], h, h, causal, heads, places)
        h = h if parallel else rms(x, p["cross_residual"]["norm_before"])
        seen = np.broadcast_to(mask[None], (n, t))
        x = x + attention(p["cross_attention"], h, states, seen, heads, None)
        h = h if parallel else rms(x, p["mlp_residual"]["norm_before"])
        x = x + swiglu(p["mlp"], h)
    x = rms(x, params["decoder_norm"])
    if config.tying == "output":
        head = params["image_embedding"]["tokens"][: config.image_vocab_size].T
    else:
        head = params["head"]["kernel"]
    return config.logits_scale * x @ head


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"block": "parallel"},
        {"positions": "rotary", "num_kv_heads": 1, "num_heads": 4},
        {
            "block": "parallel",
            "positions": "rotary",
            "num_kv_heads": 2,
            "num_heads": 4,
            "tying": "output",
            "embedding_norm": False,
            "init": "palm",
            "logits_scale": 0.25,
        },
    ],
    ids=["serial", "parallel", "rotary-multi-query", "palm"],
)
def test_the_network_computes_what_numpy_computes(tiny: ModelConfig, switches: dict) -> None:
    config = dataclasses.replace(tiny, **switches)
    model = transformer.build(config)
    params = jax.tree.map(lambda p: 5 * p if p.ndim > 1 else p, model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    text = rng.integers(0, config.text_vocab_size, (2, config.text_length))
    mask = np.arange(config.text_length)[None] < np.array([[3], [6]])
    image = rng.integers(0, config.image_vocab_size, (2, config.image_length))
    found = jax.jit(model.apply)(params, *(jnp.asarray(a) for a in (text, mask, image)))
    wide = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for row in range(2):
        expected = reference_logits(config, wide, text[row], mask[row], image[row])
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_multi_query_is_multi_head_with_repeated_heads(tiny: ModelConfig) -> None:
    few = dataclasses.replace(tiny, num_heads=4, num_kv_heads=2)
    params = transformer.build(few).init(jax.random.key(0))

    def repeat(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        if names[-2] not in ("k", "v"):
            return leaf
        heads = leaf.reshape(*leaf.shape[:-1], 2, 4)
        return jnp.repeat(heads, 2, axis=-2).reshape(*leaf.shape[:-1], 16)

    all_heads = jax.tree_util.tree_map_with_path(repeat, params)
    text = jnp.arange(12).reshape(2, 6)
    inputs = text, text >= 0, jnp.arange(18).reshape(2, 9)
    np.testing.assert_allclose(
        jax.jit(transformer.build(few).apply)(params, *inputs),
        jax.jit(transformer.build(dataclasses.replace(few, num_kv_heads=4)).apply)(
            all_heads, *inputs
        ),
        rtol=1e-5,
        atol=1e-6,
    )
