"""Plain BART gives the same outputs here as in torch."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import pretrained, transformer
from model.config import ModelConfig
from model.loss import cross_entropy
from published import bart
from tests.model import vectors
from tests.model.vectors import BART

SHARED, ENCODER = "model.shared.weight", "model.encoder.embed_tokens.weight"
Weights = dict[str, np.ndarray]


def weights() -> Weights:
    return load_file(BART / "model.safetensors")


def folder_with(tmp_path: Path, arrays: Weights, **changes: Any) -> Path:
    """Write BART's folder with other weights, or with a changed configuration."""
    values = json.loads((BART / "config.json").read_text())
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({**values, **changes}))
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path


def test_outputs_loss_and_gradient_are_torchs() -> None:
    found = vectors.bart()
    config, params = pretrained.load(BART)
    model = transformer.build(dataclasses.replace(config, unroll=1))

    def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = model.apply(params, *found.inputs)
        losses = cross_entropy(logits, jnp.asarray(found.arrays["inputs/labels"]))
        return losses.mean(), (logits, model.encode(params, *found.inputs[:2]))

    (value, (logits, states)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    there = found.arrays
    np.testing.assert_allclose(logits, there["outputs/logits"], rtol=0, atol=2e-5)
    states_there = there["outputs/encoder_last_hidden_state"]
    np.testing.assert_allclose(states, states_there, rtol=0, atol=2e-5)
    assert abs(value - there["outputs/loss"][0]) < 2e-5
    norm = np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(grads)))
    assert norm == pytest.approx(float(there["outputs/grad_global_norm"][0]), rel=2e-5)


def test_a_folder_comes_back_with_the_same_bytes(tmp_path: Path) -> None:
    assert pretrained.convert(BART, tmp_path / "ours") == "pastel"
    assert pretrained.convert(tmp_path / "ours", tmp_path / "back") == "bart"
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "back" / file).read_bytes() == (BART / file).read_bytes()


def same_params(folder: Path) -> None:
    """Assert that a folder holds the same model as BART's."""
    (config, params), (expected, there) = pretrained.load(folder), pretrained.load(BART)
    assert config == expected
    jax.tree.map(np.testing.assert_array_equal, params, there)


def test_the_shared_table_may_stand_under_each_of_its_keys(tmp_path: Path) -> None:
    arrays = weights()
    table = arrays[SHARED]
    all_keys = arrays | dict.fromkeys(bart.TWINS, table)
    same_params(folder_with(tmp_path / "all", all_keys))
    del arrays[SHARED]
    same_params(folder_with(tmp_path / "one", arrays | {"lm_head.weight": table}))


def test_a_table_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    arrays = weights()
    folder = folder_with(tmp_path, arrays | {ENCODER: arrays[SHARED] + 1})
    with pytest.raises(ValueError, match=f"model.safetensors has {ENCODER} unlike {SHARED}"):
        pretrained.load(folder)


def test_a_model_saved_without_its_head_is_read(tmp_path: Path) -> None:
    arrays = {key.removeprefix("model."): array for key, array in weights().items()}
    del arrays["final_logits_bias"]
    _, params = pretrained.load(folder_with(tmp_path, arrays))
    assert (params["logits_bias"] == 0).all()
    there = weights()[SHARED]
    np.testing.assert_array_equal(params["image_embedding"]["tokens"], there)


def test_parts_named_by_an_index_are_read(tmp_path: Path) -> None:
    arrays = weights()
    places = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(sorted(arrays))}
    shutil.copy(BART / "config.json", tmp_path)
    for part in set(places.values()):
        save_file({k: a for k, a in arrays.items() if places[k] == part}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    same_params(tmp_path)
    other = {
        **places,
        SHARED: "model-1.safetensors" if "0" in places[SHARED] else "model-0.safetensors",
    }
    index.write_text(json.dumps({"weight_map": other}))
    with pytest.raises(ValueError, match=f"{SHARED}, which model.safetensors.index.json does not"):
        pretrained.load(tmp_path)
    index.write_text(json.dumps({"weight_map": {SHARED: "../secret.safetensors"}}))
    with pytest.raises(ValueError, match="index.json has no weight_map"):
        pretrained.load(tmp_path)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    halves = {key: array.astype(jnp.bfloat16) for key, array in weights().items()}
    _, params = pretrained.load(folder_with(tmp_path / "theirs", halves))
    table = params["image_embedding"]["tokens"]
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, halves[SHARED].astype(np.float32))
    pretrained.convert(tmp_path / "theirs", tmp_path / "ours")
    pretrained.convert(tmp_path / "ours", tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors")[SHARED].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"normalize_before": True}, "normalize_before True: only False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False: only True"),
        ({"activation_function": "tanh"}, "activation_function tanh is not one of gelu"),
        ({"vocab_size": -1}, "vocab_size must be in 0"),
        ({"decoder_start_token_id": 70}, "start_token"),
    ],
)
def test_a_configuration_of_another_form_is_refused(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"config.json is not a configuration .*{message}"):
        pretrained.load(folder_with(tmp_path, weights(), **wrong))


def test_every_field_of_ours_has_a_word_there_or_is_checked(tmp_path: Path) -> None:
    config, _ = pretrained.load(BART)
    written = bart.write_config(config)
    there = json.loads((BART / "config.json").read_text())
    assert {key: there[key] for key in written} == written
    assert bart.read_config(written) == config
    free = set(bart.FREE) | set(bart.FIXED)
    plain = vars(ModelConfig())
    others = {name: value for name, value in plain.items() if name not in free}
    assert {name: getattr(config, name) for name in others} == others


@pytest.mark.parametrize("name", bart.ACTIVATIONS)
def test_each_activation_has_a_name_in_both_languages(name: str) -> None:
    values = json.loads((BART / "config.json").read_text()) | {"activation_function": name}
    config = bart.read_config(values)
    assert bart.read_config(bart.write_config(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "rmsnorm"}, "model.norm rmsnorm: a BART configuration has no setting for it"),
        ({"head_scale": True}, "model.head_scale True"),
        ({"text_length": 20}, "model.text_length 20 differs from the 24 image tokens"),
    ],
)
def test_settings_that_bart_lacks_are_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    config, _ = pretrained.load(BART)
    with pytest.raises(ValueError, match=message):
        bart.write_config(dataclasses.replace(config, **changes))
