"""DALL·E mini's models give the same outputs here as in the package, and convert back unchanged."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from model import pretrained, transformer
from model.config import ModelConfig
from model.loss import cross_entropy
from published import dalle_mini
from tests.model import vectors
from tests.model.vectors import (
    FOLDER,
    VARIANTS,
    Vectors,
)
from weights.plans import scatter

SHARP = "swinv2_cosine_swinpos"
SMELU = "cogview_glu_smelu_scan"
DIFFERENTIATED = {"normformer_glu_scan", "postln_deepnet_ffn_bias", "normformer_sinkhorn2"}
"""Variants whose gradients are compared in `make test`: the one that was trained, and those that
differ most from it. Gradients follow from outputs, and double a program; SHARP's have a test of
their own."""


@dataclasses.dataclass(frozen=True)
class Observed(transformer.Transformer):
    """A model that keeps the encoder's states of each call. To encode a second time took a
    tenth of this file's time."""

    states: list[jax.Array] = dataclasses.field(default_factory=list)

    def encode(self, *inputs: Any) -> jax.Array:
        self.states.append(super().encode(*inputs))
        return self.states[-1]


def load(name: str, folder: Path) -> tuple[Vectors, ModelConfig, Any]:
    config, params = pretrained.load(vectors.folder(name, folder))
    return (
        vectors.dalle_mini(name),
        dataclasses.replace(config, unroll=1),
        params,
    )  # compiles faster


def make_loss(found: Vectors, config: ModelConfig, dtype: Any = jnp.float32) -> Any:
    """A function from parameters to (loss, (logits, encoder states))."""
    model = Observed(config, jnp.dtype(dtype))

    def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = model.apply(params, *found.inputs)
        losses = cross_entropy(logits, jnp.asarray(found.arrays["inputs/labels"]))
        return losses.mean(), (logits, model.states[-1])

    return loss


def evaluate(found: Vectors, config: ModelConfig, params: Any, dtype: Any = jnp.float32) -> Any:
    """(loss, (logits, encoder states)), and gradients by key."""
    loss = make_loss(found, config, dtype)
    outputs, grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    flat = flatten_dict(grads, sep="/")
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    scanned = found.facts["config"]["use_scan"]
    return outputs, scatter(dalle_mini.plan(config, shapes, scanned), flat)


def norm(arrays: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(a.astype(np.float64)).sum() for a in arrays.values())))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in DIFFERENTIATED])
def test_outputs_and_loss_are_the_packages(name: str, tmp_path: Path) -> None:
    found, config, params = load(name, tmp_path)
    check_outputs(name, found, *jax.jit(make_loss(found, config))(params))


def check_outputs(name: str, found: Vectors, loss: Any, outputs: Any) -> None:
    facts, (logits, states) = found.facts, outputs
    if name == SMELU:  # the package's activation is not SmeLU, so its outputs differ
        published = facts["not_the_package_but_for_comparison"]["smelu_as_published"]
        assert abs(loss - published["loss"]) < 1e-5
        return
    tolerance = 2e-3 if name == SHARP else 2e-5
    np.testing.assert_allclose(logits, found.arrays["outputs/logits"], rtol=0, atol=tolerance)
    there = found.arrays["outputs/encoder_last_hidden_state"]
    np.testing.assert_allclose(states, there, rtol=0, atol=tolerance)
    if name == SHARP:
        assert loss == pytest.approx(facts["loss"], rel=5e-5)
        return
    assert abs(loss - facts["loss"]) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in DIFFERENTIATED else pytest.mark.slow)
        for name in VARIANTS
    ],
)
def test_outputs_and_gradients_are_the_packages(name: str, tmp_path: Path) -> None:
    found, config, params = load(name, tmp_path)
    (loss, outputs), grads = evaluate(found, config, params)
    check_outputs(name, found, loss, outputs)
    facts = found.facts
    if name == SMELU:
        published = facts["not_the_package_but_for_comparison"]["smelu_as_published"]
        assert norm(grads) == pytest.approx(published["grad_global_norm"], rel=1e-4)
        return
    assert grads.keys() == facts["grad_norms"].keys()
    if name == SHARP:
        return
    assert norm(grads) == pytest.approx(facts["grad_global_norm"], rel=1e-4)
    for key, there in facts["grad_norms"].items():
        assert norm({key: grads[key]}) == pytest.approx(there, rel=1e-4, abs=1e-6), key
    for key, whole in found.group("grads").items():
        atol = 2e-5 * np.abs(whole).max()
        np.testing.assert_allclose(grads[key], whole, rtol=0, atol=atol, err_msg=key)


def test_the_sharpest_attention_has_the_packages_gradients_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 they are dominated by rounding: half a unit in the last place of the weights
    changes the norm by 2e-4, in the package as much as here."""
    found, config, params = load(SHARP, tmp_path)
    with jax.enable_x64(True):
        monkeypatch.setattr(jnp, "float32", jnp.float64)  # the data type of norms and softmax
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        (loss, _), grads = evaluate(found, config, wide, jnp.float64)
        assert loss.dtype == jnp.float64
    there = found.facts["float32_against_float64"]
    assert loss == pytest.approx(there["loss_float64"], rel=1e-9)
    assert norm(grads) == pytest.approx(there["grad_global_norm_float64"], rel=1e-9)


def test_missing_settings_have_the_package_s_defaults() -> None:
    config = dalle_mini.read_config({"model_type": "dallebart"}, [])
    package = {"encoder_vocab_size": 50264, "image_vocab_size": 16384, "image_length": 256}
    assert config == dalle_mini.read_config(package, [])
    assert (config.dim, config.mlp_dim, config.text_length, config.dropout) == (1024, 4096, 64, 0.1)
    assert (config.placement, config.use_glu, config.start_token) == ("normformer", True, 16384)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"use_alibi": True}, "use_alibi"),
        ({"use_palm": True}, "use_palm"),
        ({"d_model": "32"}, "d_model must be a whole number, not '32'"),
        ({"d_model": True}, "d_model must be a whole number"),
        ({"d_model": 1 << 40}, "d_model must be in 0..16777216"),
        ({"encoder_layers": 10**9}, "encoder_layers must be in 0..1024"),
        ({"dropout": float("nan")}, "dropout must be a number"),
        ({"ln_positions": "sandwich"}, "placement 'sandwich'"),
        ({"activation_function": "tanh"}, "activation_function tanh is not one of gelu"),
        ({"decoder_start_token_id": 49}, "decoder_start_token_id 49 is beyond image_vocab_size 48"),
        ({"use_bias": 1}, "use_bias must be true or false"),
        ({"normalize_text": "no"}, "normalize_text must be true or false"),
        ({"ln_positions": "swinv2"}, "swinv2 layers cannot be scanned"),
        ({"sinkhorn_iters": 0}, "sinkhorn_iterations"),
        ({"encoder_attention_heads": 5}, "num_heads 5"),
    ],
)
def test_a_configuration_of_another_form_is_refused(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = json.loads((FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **wrong}))
    (tmp_path / "flax_model.msgpack").symlink_to(FOLDER / "flax_model.msgpack")
    with pytest.raises(ValueError, match=message) as raised:
        pretrained.load(tmp_path)
    assert "config.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_field_of_ours_has_a_word_there_or_is_checked() -> None:
    mapped = set(dalle_mini.FREE) | set(dalle_mini.ALLOWED)
    assert {field.name for field in dataclasses.fields(ModelConfig)} <= mapped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "parallel", "placement": "preln"}, "model.block parallel"),
        ({"num_kv_heads": 1}, "model.num_kv_heads 1"),
        ({"positions": "rotary"}, "model.positions rotary"),
        ({"scores": "qk_norm"}, "model.scores qk_norm"),
        ({"logits_scale": 0.5}, "model.logits_scale 0.5"),
        ({"decoder_start_token_id": -1}, "model.decoder_start_token_id -1"),
    ],
)
def test_settings_that_the_package_lacks_are_refused_by_name(
    changes: dict[str, Any], message: str, tiny: ModelConfig
) -> None:
    config = dataclasses.replace(tiny, decoder_start_token_id=19)
    assert dalle_mini.write_config(config)["image_vocab_size"] == 19
    with pytest.raises(ValueError, match=message):
        dalle_mini.write_config(dataclasses.replace(config, **changes))


@pytest.mark.parametrize(
    "case", json.loads((FOLDER.parent / "init_stats.json").read_text())["cases"]
)
def test_initial_weights_are_spread_as_the_packages(case: str) -> None:
    about = json.loads((FOLDER.parent / "init_stats.json").read_text())["cases"][case]
    keys = about["leaves"].keys()
    config = dalle_mini.read_config(about["config"], keys)
    flat = flatten_dict(transformer.build(config).init(jax.random.key(1)), sep="/")
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    ours = scatter(dalle_mini.plan(config, shapes, True), flat)
    assert {key: list(array.shape) for key, array in ours.items()} == {
        key: there["shape"] for key, there in about["leaves"].items()
    }
    for key, there in about["leaves"].items():
        if there["std"] == 0:
            assert (ours[key] == there["mean"]).all(), key
            continue
        # Five standard errors of the difference of two samples, plus the rounding in the JSON.
        size = ours[key].size
        assert ours[key].std() == pytest.approx(there["std"], rel=5 / size**0.5, abs=1e-6), key
        assert abs(ours[key].mean()) < 5 * there["std"] / size**0.5, key
