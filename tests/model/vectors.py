"""Results of dalle-mini and BART for random weights (tests/reference), and dalle-mini's layout.

The vectors are compressed with xz. The weights of normformer_glu_scan are in the folder beside it;
normformer_ffn_bias_relu_headscale has no full gradients.
"""

import functools
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load, load_file

from weights.msgpack import read_msgpack, write_msgpack

REFERENCE = Path(__file__).parent.parent / "reference"
FOLDER = REFERENCE / "dalle_mini" / "checkpoint_normformer_glu_scan"
BART = REFERENCE / "bart_torch" / "bart_gelu"
VARIANTS = sorted(path.name.split(".")[0] for path in FOLDER.parent.glob("*.safetensors.xz"))
SCANNED = "normformer_glu_scan"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Vectors:
    """Inputs, outputs, weights and gradients of one model, and its JSON."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def group(self, name: str) -> dict[str, np.ndarray]:
        """The arrays whose keys begin with `name`/; the prefix is removed."""
        return {
            key.removeprefix(f"{name}/"): array
            for key, array in self.arrays.items()
            if key.startswith(f"{name}/")
        }

    @property
    def inputs(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """text_tokens, text_mask and decoder_inputs."""
        names = ("input_ids", "attention_mask", "decoder_input_ids")
        found = (jnp.asarray(self.arrays[f"inputs/{name}"]) for name in names)
        text_tokens, mask, decoder_inputs = found
        return text_tokens, mask.astype(bool), decoder_inputs


@functools.cache
def dalle_mini(name: str) -> Vectors:
    """The vectors of one of VARIANTS."""
    path = FOLDER.parent / name
    arrays = load(lzma.decompress(path.with_suffix(".safetensors.xz").read_bytes()))
    if name == SCANNED:
        flat = flatten_dict(read_msgpack(FOLDER / "flax_model.msgpack"), sep="/")
        arrays |= {f"params/{key}": array for key, array in flat.items()}
    return Vectors(arrays, json.loads(path.with_suffix(".json").read_text()))


def bart() -> Vectors:
    """The vectors of plain BART, whose weights are in the folder BART."""
    path = BART.with_suffix(".io.safetensors")
    return Vectors(load_file(path), json.loads(BART.with_suffix(".json").read_text()))


def settings(vectors: Vectors) -> dict[str, Any]:
    """The config.json of a variant."""
    facts = vectors.facts
    return {**facts["config"], **facts["special_tokens"], "model_type": "dallebart"}


def folder(name: str, parent: Path) -> Path:
    """The folder of a variant, written into `parent` unless it exists."""
    if name == SCANNED:
        return FOLDER
    found = dalle_mini(name)
    return write_folder(parent / name, settings(found), found.group("params"))


def write_folder(path: Path, values: Mapping[str, Any], params: Mapping[str, Any]) -> Path:
    """Write a folder like dalle-mini's, from weights by key."""
    path.mkdir()
    write_msgpack(
        path / "flax_model.msgpack", unflatten_dict(dict(sorted(params.items())), sep="/")
    )
    text = json.dumps(dict(sorted(values.items())), indent=2)
    (path / "config.json").write_text(text + "\n")
    return path


def package_layout(values: Mapping[str, Any]) -> Shapes:
    """Keys and shapes of a dalle-mini model, after the README of the vectors. They are written a
    second time here, in the order of dalle-mini's code, to check ours."""
    dim, found = values["d_model"], Shapes()
    for stack, vocab, length in (
        ("encoder", values["encoder_vocab_size"], values["max_text_length"]),
        ("decoder", values["image_vocab_size"] + 1, values["image_length"]),
    ):
        top = f"model/{stack}"
        found[f"{top}/embed_tokens/embedding"] = (vocab, dim)
        if values["use_absolute_position_embeddings"]:
            found[f"{top}/embed_positions/embedding"] = (length, dim)
        _norm(found, f"{top}/layernorm_embedding", values, dim, True)
        if values[f"use_final_ln_{stack}"] and values["ln_positions"] != "postln":
            _norm(found, f"{top}/final_ln", values, dim, values["force_ln_scale"])
        depth = values[f"{stack}_layers"]
        name = f"FlaxBart{stack.capitalize()}Layer"
        if values["use_scan"]:
            one = _layer(values, stack, 0, depth + 1)
            found |= {f"{top}/layers/{name}s/{key}": (depth, *shape) for key, shape in one.items()}
            continue
        for i in range(depth):
            one = _layer(values, stack, i, depth)
            found |= {f"{top}/layers/{name}_{i}/{key}": shape for key, shape in one.items()}
    if not values["tie_word_embeddings"]:
        found["lm_head/kernel"] = (dim, values["image_vocab_size"] + 1)
    return found


def _layer(values: Mapping[str, Any], stack: str, i: int, depth: int) -> Shapes:
    found: Shapes = {}
    placement, dim, forced = values["ln_positions"], values["d_model"], values["force_ln_scale"]
    heads, texts = values[f"{stack}_attention_heads"], values["max_text_length"]
    queries = texts if stack == "encoder" else values["image_length"]
    kind = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[values["ln_type"]]
    count = 0

    def norm(scaled: bool) -> None:
        nonlocal count
        _norm(found, f"{kind}_{count}", values, dim, scaled or forced)
        count += 1

    for j in range(1 if stack == "encoder" else 2):
        first = placement in ("normformer", "cogview", "preln")
        if first or (placement == "subln" and stack == "encoder"):
            norm(False)
        here = f"FlaxBartAttention_{j}"
        for one in ("q", "k", "v", "out"):
            _dense(found, f"{here}/{one}_proj", values, dim, dim)
        if values["use_head_scale"]:
            found[f"{here}/head_scale"] = (1, 1, heads, 1)
        if values["use_swin_position_embeddings"]:
            keys = texts if j else queries
            found[f"{here}/rel_bias/embedding"] = (queries, keys * heads)
        if placement == "subln" and j == 0:
            _norm(found, f"{here}/mid_layernorm", values, dim, True)
        if placement in ("normformer", "swinv2", "cogview", "postln"):
            norm(True)
    _feed_forward(found, values, values[f"{stack}_ffn_dim"], kind)
    last = i == depth - 1
    if placement == "postln" or (placement == "swinv2" and (i + 1) % 6 == 0 and not last):
        norm(not last)
    return found


def _feed_forward(found: Shapes, values: Mapping[str, Any], hidden: int, kind: str) -> None:
    placement, dim, forced = values["ln_positions"], values["d_model"], values["force_ln_scale"]
    here, ups = ("GLU_0", 2) if values["use_glu"] else ("FFN_0", 1)
    for i in range(ups):
        _dense(found, f"{here}/Dense_{i}", values, dim, hidden)
    _dense(found, f"{here}/Dense_{ups}", values, hidden, dim)
    norms: dict[str, list[tuple[int, bool]]] = {
        "normformer": [(dim, False), (hidden, False)],
        "subln": [(dim, False), (hidden, False)],
        "preln": [(dim, False)],
        "cogview": [(dim, False), (dim, True)],
        "swinv2": [(dim, True)],
        "postln": [],
    }
    for i, (width, scaled) in enumerate(norms[placement]):
        _norm(found, f"{here}/{kind}_{i}", values, width, scaled or forced)


def _dense(found: Shapes, name: str, values: Mapping[str, Any], d_in: int, d_out: int) -> None:
    found[f"{name}/kernel"] = (d_in, d_out)
    if values["use_bias"]:
        found[f"{name}/bias"] = (d_out,)


def _norm(found: Shapes, name: str, values: Mapping[str, Any], width: int, scaled: bool) -> None:
    if scaled:
        found[f"{name}/scale"] = (width,)
    if values["ln_type"] == "layernorm":
        found[f"{name}/bias"] = (width,)
