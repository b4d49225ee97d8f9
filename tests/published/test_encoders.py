"""Text encoders of other programs give the same states here as there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import transformer
from model.config import ModelConfig
from model.encoder_config import EncoderConfig, given
from model.positions import distance_buckets
from model.transformer import Params, Transformer
from published import encoders
from tests.model import vectors
from tests.model.vectors import BART, REFERENCE
from tests.published.text_encoders import T5, write_t5
from tests.tiny import TINY

CLIP = REFERENCE / "clip_torch" / "clip_tiny"
Arrays = dict[str, np.ndarray]


def borrowed(
    folder: Path, text_length: int, **decoder: Any
) -> tuple[Transformer, Params, list[str]]:
    """A tiny model with the folder's text encoder, its parameters, and the printed lines."""
    values = json.loads((folder / "config.json").read_text())
    layout = encoders.layout_of(values)
    theirs = layout.read(values)
    length = theirs.text_length if layout.has_length else text_length
    own = replace(TINY, text_length=length, **decoder)
    model = transformer.build(encoders.with_encoder(own, theirs))
    found, lines = encoders.read_params(folder, layout, theirs)
    found = jax.tree.map(jnp.asarray, found)
    random = np.random.default_rng(0)  # model.init would compile programs
    draw = lambda leaf: jnp.float32(random.normal(size=leaf.shape))  # noqa: E731
    fresh = jax.tree.map(draw, model.shapes)
    assert jax.tree.map(jnp.shape, {k: fresh[k] for k in found}) == jax.tree.map(jnp.shape, found)
    return model, {**fresh, **found}, lines


def test_barts_states_are_torchs() -> None:
    there = vectors.bart()
    model, params, lines = borrowed(BART, 24, dim=32)
    states = jax.jit(model.encode)(params, *there.inputs[:2])
    wanted = there.arrays["outputs/encoder_last_hidden_state"]
    np.testing.assert_allclose(states, wanted, rtol=0, atol=1e-5)
    (line,) = lines
    assert "not used: decoder (" in line
    assert "text_projection" not in params


def test_clips_features_are_torchs() -> None:
    found = load_file(f"{CLIP}.io.safetensors")
    tokens, mask = found["inputs/input_ids"], found["inputs/attention_mask"].astype(bool)
    model, params, _ = borrowed(CLIP, 12, dim=32)
    t = tokens.shape[1]
    states = np.asarray(jax.jit(model.encode)(params, tokens, mask))
    project = load_file(CLIP / "model.safetensors")["text_projection.weight"].T
    features = states[np.arange(len(states)), tokens.argmax(1)] @ project
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, found["outputs/text_embeds"], rtol=0, atol=1e-5)
    later = tokens.copy()
    later[:, t - 1] = 3  # the last token, which no other state can see
    other = np.asarray(jax.jit(model.encode)(params, later, mask))
    np.testing.assert_array_equal(other[:, : t - 1], states[:, : t - 1])


def buckets_of_t5(far: int, count: int, most: int) -> int:
    """The bucket of the distance far = key − query, after section 2.1 of the paper and its code."""
    half = count // 2
    first, far = (half if far > 0 else 0), abs(far)
    exact = half // 2
    if far < exact:
        return first + far
    step = np.log(far / exact) / np.log(most / exact) * (half - exact)
    return first + min(exact + int(step + 1e-6), half - 1)


def numpy_t5(folder: Path, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """T5's states of one text [t], head by head, in float64."""
    settings = json.loads((folder / "config.json").read_text())
    w = {k: v.astype(float) for k, v in load_file(folder / "model.safetensors").items()}
    heads, count = settings["num_heads"], settings["relative_attention_num_buckets"]
    t, epsilon = len(tokens), settings["layer_norm_epsilon"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * w[f"{name}.weight"]

    def act(x: np.ndarray) -> np.ndarray:
        if settings["feed_forward_proj"] == "relu":
            return np.maximum(x, 0)
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    table = w["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    most = settings["relative_attention_max_distance"]
    x = w["shared.weight"][tokens]
    for i in range(settings["num_layers"]):
        name = f"encoder.block.{i}.layer"
        h = norm(x, f"{name}.0.layer_norm")
        q, k, v = (np.split(h @ w[f"{name}.0.SelfAttention.{c}.weight"].T, heads, 1) for c in "qkv")
        mixed = []
        for n in range(heads):
            bias = [
                [table[buckets_of_t5(b - a, count, most), n] for b in range(t)] for a in range(t)
            ]
            scores = np.where(mask[None], q[n] @ k[n].T + np.array(bias), -np.inf)
            odds = np.exp(scores - scores.max(1, keepdims=True))
            mixed.append(odds / odds.sum(1, keepdims=True) @ v[n])
        x = x + np.concatenate(mixed, 1) @ w[f"{name}.0.SelfAttention.o.weight"].T
        h = norm(x, f"{name}.1.layer_norm")
        dense = f"{name}.1.DenseReluDense"
        if settings["feed_forward_proj"] == "relu":
            h = act(h @ w[f"{dense}.wi.weight"].T)
        else:
            h = act(h @ w[f"{dense}.wi_0.weight"].T) * (h @ w[f"{dense}.wi_1.weight"].T)
        x = x + h @ w[f"{dense}.wo.weight"].T
    return norm(x, "encoder.final_layer_norm")


@pytest.mark.parametrize("word", ["relu", "gated-gelu"])
def test_t5s_states_are_numpys(word: str, tmp_path: Path) -> None:
    write_t5(tmp_path, feed_forward_proj=word)
    t = 40  # beyond the largest distance with a separate bucket
    model, params, lines = borrowed(tmp_path, t, dim=T5["d_model"], num_heads=4)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, T5["vocab_size"], (2, t))
    mask = np.arange(t)[None] < np.array([[t], [29]])
    states = jax.jit(model.encode)(params, jnp.asarray(tokens), jnp.asarray(mask))
    states = np.asarray(states)
    for row in range(2):
        wanted = numpy_t5(tmp_path, tokens[row], mask[row])
        np.testing.assert_allclose(states[row], wanted, rtol=0, atol=1e-5)
    assert lines == [f"2 arrays of {tmp_path}, 12 numbers, are not used: decoder (1), lm_head (1)"]


def test_the_buckets_of_t5_are_those_of_its_paper() -> None:
    wanted = [[buckets_of_t5(b - a, 32, 128) for b in range(140)] for a in range(140)]
    np.testing.assert_array_equal(distance_buckets(140, 32, 128), wanted)


def test_another_width_is_joined_by_one_projection(tmp_path: Path) -> None:
    write_t5(tmp_path)
    model, params, _ = borrowed(tmp_path, 6)
    assert params["text_projection"]["kernel"].shape == (T5["d_model"], TINY.dim)
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    encode = jax.jit(model.encode)
    states = np.asarray(encode(params, tokens, tokens >= 0))
    twice = params | {
        "text_projection": {"kernel": 2 * np.asarray(params["text_projection"]["kernel"])}
    }
    assert states.shape == (2, 6, TINY.dim)
    np.testing.assert_allclose(encode(twice, tokens, tokens >= 0), 2 * states, rtol=1e-6, atol=1e-6)
    laid_out = model.lay_out(params, 2)
    states_of_drawing = encode(laid_out, tokens, tokens >= 0)
    np.testing.assert_allclose(states_of_drawing, states, rtol=1e-5, atol=1e-6)


def test_an_encoder_leaves_nothing_to_the_decoders_settings() -> None:
    """Otherwise it would compute something else in a model with other settings."""
    for folder in (BART, CLIP):
        values = json.loads((folder / "config.json").read_text())
        theirs = encoders.layout_of(values).read(values)
        names = set(EncoderConfig.__dataclass_fields__) - {"causal", "buckets", "bucket_distance"}
        assert given(theirs.encoder).keys() == names
        odd = replace(
            *(TINY,),
            block="parallel",
            norm="rmsnorm",
            use_glu=True,
            num_kv_heads=1,
            head_scale=True,
            scores="cosine",
            positions="rotary",
            dim=48,
            relative_bias="offset",
            sinkhorn_iterations=3,
            head_dim=12,
        )
        one, other = (encoders.with_encoder(model, theirs).for_encoder() for model in (TINY, odd))
        assert one.sinkhorn_iterations == other.sinkhorn_iterations == 1
        assert given(other.encoder) == given(one.encoder) == {}
        for name in names:
            assert getattr(one, name) == getattr(other, name)


def test_weights_and_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_t5(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    key = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    for change, said in (
        ({key: np.zeros((3, 5), np.float32)}, r"wo.weight: \(3, 5\) instead of \(24, 40\)"),
        ({key: None}, r"wo.weight: None instead of \(24, 40\)"),
    ):
        changed: Arrays = {k: v for k, v in {**arrays, **change}.items() if v is not None}
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=said):
            borrowed(tmp_path, 6)
    with pytest.raises(ValueError, match="model_type 'gpt2' is not one of bart, clip"):
        encoders.layout_of({"model_type": "gpt2"})
    theirs = encoders.layout_of(T5).read(T5)
    with pytest.raises(ValueError, match="tying all shares the table"):
        encoders.with_encoder(
            replace(TINY, tying="all", image_vocab_size=32, decoder_start_token_id=1), theirs
        )
    with pytest.raises(ValueError, match="feed_forward_proj swish is not one of"):
        encoders.layout_of(T5).read({**T5, "feed_forward_proj": "swish"})
    with pytest.raises(ValueError, match=r"model.encoder \(dim=25\).*try dim 24"):
        ModelConfig(encoder=EncoderConfig(dim=25))
