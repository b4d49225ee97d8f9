"""Parameters in decoding layout: layer by layer, in the compute dtype.

With stacked parameters, each call of a decoding loop would copy the weights.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from model.blocks import DecoderLayer, layer_norms, runs
from model.config import ModelConfig
from model.init import Branch
from model.layers import join
from model.network import Params
from model.products import PANEL_ROWS, in_panels


def lay_out(params: Params, config: ModelConfig, dtype: jnp.dtype, rows: int | None) -> Params:
    """The parameters with both stacks split into `layer0`, `layer1`, …, and kernels in `dtype`.

    `rows` is the number of rows decoded at a time on a CPU; None on an accelerator. On a CPU,
    products with the same input become one product, and for few rows large kernels are stored in
    panels (model/products.py).
    """
    if is_laid_out(params):
        return params
    encoder = unstacked(params, config, "encoder")
    decoder = unstacked(params, config, "decoder")
    if rows is not None:
        decoder = [joined(layer) for layer in decoder]

    def in_dtype(path: tuple[Any, ...], leaf: Array | np.ndarray) -> Array:
        return jnp.asarray(leaf, dtype if path[-1].key == "kernel" else leaf.dtype)

    stacks = {"encoder": _numbered(encoder), "decoder": _numbered(decoder)}
    laid_out = jax.tree_util.tree_map_with_path(in_dtype, params | stacks)
    if rows in PANEL_ROWS:
        parts = {name: laid_out[name] for name in ("decoder", "head") if name in laid_out}
        laid_out |= jax.tree_util.tree_map_with_path(_kernel_in_panels, parts)
    return laid_out


def is_laid_out(params: Params) -> bool:
    """True if the parameters are in decoding layout."""
    return "layer0" in params["decoder"]


def unstacked(params: Params, config: ModelConfig, branch: Branch) -> list[Params]:
    """The parameters of each layer of a stack."""
    return [
        jax.tree.map(lambda leaf: leaf[j], params[branch][f"run{i}"])  # noqa: B023
        for i, (_, depth) in enumerate(runs(layer_norms(config, branch)))
        for j in range(depth)
    ]


def joined(layer: Params) -> Params:
    """A decoder layer's parameters for `with_joined_layers`: one kernel for queries, keys and
    values, and one for the two inputs of a gated feed-forward."""
    attention, mlp = layer["attention"], layer["mlp"]
    layer = layer | {"attention": _join(attention, ("q", "k", "v"))}
    return layer | {"mlp": _join(mlp, ("up", "gate"))} if "gate" in mlp else layer


def with_joined_layers(layer: DecoderLayer) -> DecoderLayer:
    """The layer in the form that takes the parameters of `joined`."""
    layer = nnx.clone(layer)
    layer.attention.join()
    layer.mlp.join()
    return layer


def _join(part: Params, names: Sequence[str]) -> Params:
    """The parameters with `joined` in place of the named dense layers."""
    others = {name: layers for name, layers in part.items() if name not in names}
    return {**others, "joined": join([part[name] for name in names])}


def _numbered(layers: Sequence[Params]) -> Params:
    return {f"layer{i}": layer for i, layer in enumerate(layers)}


def _kernel_in_panels(path: tuple[Any, ...], leaf: Array) -> Array:
    return in_panels(leaf) if path[-1].key == "kernel" else leaf
