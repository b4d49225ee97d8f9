"""A published model draws the same tokens here as in DALL·E mini's own loop, and presets have the
published sizes."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from command_line.parser import parse_config
from config import Config
from model import pretrained, transformer
from model.config import SamplingConfig
from model.sampling import EmptyText, guide, keep_likely, make_sampler
from model.transformer import Params, Transformer
from published import dalle_mini
from tests.model import vectors
from tests.model.vectors import FOLDER, SCANNED, Vectors, package_layout

PRESETS = Path(__file__).parent.parent.parent / "presets"
SIZES = {
    "bart": 438_073_344,
    "dalle_mini": 437_929_984,
    "dalle_mini_glu": 437_833_712,
    "dalle_mega": 2_587_521_024,
    "billions_6_7": 6_703_823_744,
    "palm": 8_426_893_312,
}


@pytest.fixture(scope="module")
def found() -> Vectors:
    return vectors.dalle_mini(SCANNED)


@pytest.fixture(scope="module")
def model() -> tuple[Transformer, Params]:
    config, params = pretrained.load(FOLDER)
    return transformer.build(config), params


def empty_text(found: Vectors) -> EmptyText:
    tokens = found.arrays["inputs/input_ids_uncond"]
    assert (tokens == tokens[:1]).all()
    return tokens[:1], found.arrays["inputs/attention_mask_uncond"][:1].astype(bool)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("greedy_minlength", SamplingConfig(guidance_scale=1.0, temperature=0.0)),
        ("supercond_scale3_topk1", SamplingConfig(guidance_scale=3.0, temperature=0.0)),
        ("supercond_scale10_topk1", SamplingConfig(10.0, temperature=1.0, top_k=1)),
    ],
)
def test_sequences_are_the_packages(
    name: str, sampling: SamplingConfig, found: Vectors, model: tuple[Transformer, Params]
) -> None:
    there = found.arrays[f"generate/{name}_sequences"]
    sample = make_sampler(model[0], sampling, empty_text(found), codebook_size=48, segments=2)
    tokens = jax.jit(sample)(model[1], *found.inputs[:2], jnp.arange(3, dtype=jnp.uint32))
    np.testing.assert_array_equal(tokens, there[:, 1:])


def test_guided_logits_are_the_packages(found: Vectors, model: tuple[Transformer, Params]) -> None:
    there = found.group("generate")
    inputs = jnp.asarray(there["supercond_scale3_topk1_sequences"][:, :-1])
    text_tokens, text_mask, _ = found.inputs
    empty = [jnp.repeat(jnp.asarray(one), 3, axis=0) for one in empty_text(found)]
    apply = jax.jit(model[0].apply)
    conditional = apply(model[1], text_tokens, text_mask, inputs)
    unconditional = apply(model[1], *empty, inputs)
    guided = guide(jnp.concatenate([conditional, unconditional]).reshape(6 * 16, 49), 3.0)
    for logits, name in (
        (conditional, "cond_logits"),
        (unconditional, "uncond_logits"),
        (guided.reshape(3, 16, 49), "step_logits"),
    ):
        expected = there[f"supercond_scale3_{name}"]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_greedy_logits_are_the_packages(found: Vectors, model: tuple[Transformer, Params]) -> None:
    there = found.group("generate")
    inputs = jnp.asarray(there["greedy_minlength_sequences"][:, :-1])
    logits = jax.jit(model[0].apply)(model[1], *found.inputs[:2], inputs)
    expected = there["greedy_minlength_step_logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.7, 12, 0.8), (0.5, 0, 0.6)])
def test_the_same_tokens_stay_likely(
    temperature: float, top_k: int, top_p: float, found: Vectors
) -> None:
    there = found.group("generate")
    logits = jnp.asarray(there["supercond_scale3_step_logits"]).reshape(-1, 49)
    kept = keep_likely(logits / temperature, top_k, top_p)
    expected = there[f"supercond_scale3_warped_t{temperature}_k{top_k}_p{top_p}"].reshape(-1, 49)
    np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_has_the_published_size(name: str) -> None:
    path = PRESETS / f"{name}.yaml"
    config = parse_config(Config, [f"--config={path}"]).model
    assert transformer.count_params(config) == SIZES[name]
    assert f"{SIZES[name]:,} parameters" in path.read_text()


# From tools/train/config in borisdayma/dalle-mini; missing settings have the package's defaults.
PUBLISHED: dict[str, dict[str, Any]] = {
    "dalle_mini": {"use_glu": False, "image_vocab_size": 16391},
    "dalle_mini_glu": {"encoder_ffn_dim": 2730, "decoder_ffn_dim": 2730},
    "dalle_mega": {
        "d_model": 2048,
        "encoder_layers": 24,
        "decoder_layers": 24,
        "encoder_attention_heads": 32,
        "decoder_attention_heads": 32,
        "encoder_vocab_size": 50272,
        "image_vocab_size": 16415,
        "init_std": 0.01,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_the_model_of_the_published_configuration(name: str) -> None:
    config = parse_config(Config, [f"--config={PRESETS / name}.yaml"]).model
    values = {**dalle_mini.write_config(config), **PUBLISHED[name]}
    assert values == dalle_mini.write_config(config)
    assert sum(math.prod(shape) for shape in package_layout(values).values()) == SIZES[name]
    shapes = jax.eval_shape(transformer.build(config).init, jax.random.key(0))
    there = dalle_mini.read_config(values | {"decoder_start_token_id": 16384}, [])
    same = jax.eval_shape(transformer.build(there).init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, shapes)
