"""Low-rank adapters: the product of two thin matrices is added to a frozen kernel (LoRA; Hu et al.
2021, arXiv:2106.09685).

They are a subtree of the parameters, under ADAPTERS, with the kernels' paths: the kernel at
decoder/run0/mlp/up/kernel has adapters/decoder/run0/mlp/up/kernel/a and …/b. So optimizer,
sharding, averages and checkpoints treat them like other parameters.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key, PyTree

from optim.config import ADAPTERS, AdapterConfig
from optim.paths import check_patterns, matches


def init_adapters(key: Key[Array, ""], params: PyTree, config: AdapterConfig) -> dict[str, PyTree]:
    """Float32 adapters for each kernel of `params` that the patterns name, as a nested dict. `a`
    [layers, inputs, rank] is random and `b` [layers, rank, outputs] is zero, so their product is
    zero at first. A kernel of a stack has adapters for each of its layers.

    Raises:
        ValueError: a pattern matches no kernel, or a kernel is smaller than the rank.
    """
    flat = flatten_dict(params, sep="/")
    kernels = sorted(name for name in flat if name.split("/")[-1] == "kernel")
    check_patterns("adapters.kernels", config.kernels, kernels, "kernels")
    adapters = {
        name: _init_pair(jax.random.fold_in(key, place), name, flat[name].shape, config.rank)
        for place, name in enumerate(kernels)
        if matches(name, config.kernels)
    }
    return unflatten_dict(adapters, sep="/")


def split(params: Mapping[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(the parameters without their adapters, a dict with only the adapters)."""
    base = {name: part for name, part in params.items() if name != ADAPTERS}
    return base, {name: part for name, part in params.items() if name == ADAPTERS}


def merge(params: Mapping[str, PyTree], config: AdapterConfig) -> dict[str, PyTree]:
    """The parameters without adapters, each adapted kernel W replaced by W + (alpha / rank) · a · b
    in float32. Parameters without adapters are returned as they are."""
    base, adapters = split(params)
    return _merged(base, adapters.get(ADAPTERS, {}), config.alpha / max(config.rank, 1))


def _merged(base: PyTree, adapters: Mapping[str, PyTree], scale: float) -> PyTree:
    if not isinstance(base, Mapping):
        return _add(base, adapters["a"], adapters["b"], scale)
    return {
        name: _merged(part, adapters[name], scale) if name in adapters else part
        for name, part in base.items()
    }


def _add(
    kernel: Float[Array, "*n i o"],
    a: Float[Array, "*n i r"],
    b: Float[Array, "*n r o"],
    scale: float,
) -> Float[Array, "*n i o"]:
    """kernel + scale · a @ b, in float32 on every device, so that training and a release have the
    same weights."""
    wide, a, b = (jnp.asarray(leaf, jnp.float32) for leaf in (kernel, a, b))
    return wide + scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _init_pair(
    key: Key[Array, ""], name: str, shape: tuple[int, ...], rank: int
) -> dict[str, Array]:
    *layers, inputs, outputs = shape
    if rank > min(inputs, outputs):
        raise ValueError(
            f"optim.adapters.rank {rank} is more than the kernel {name} has, {inputs} × {outputs}; "
            f"take at most {min(inputs, outputs)}, or leave it out of optim.adapters.kernels"
        )
    a = jax.random.normal(key, (*layers, inputs, rank)) * inputs**-0.5
    return {"a": a, "b": jnp.zeros((*layers, rank, outputs))}
