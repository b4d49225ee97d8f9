"""Shampoo with the setting names of optax-shampoo, with which dalle-mini was trained."""

import difflib
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.config import Graft, ShampooConfig
from optim.shampoo.transformation import shampoo

DEFAULTS: dict[str, Any] = {
    "beta1": 0.9,
    "beta2": 0.999,
    "diagonal_epsilon": 1e-10,
    "matrix_epsilon": 1e-6,
    "weight_decay": 0.0,
    "start_preconditioning_step": 5,
    "preconditioning_compute_steps": 1,
    "statistics_compute_steps": 1,
    "best_effort_shape_interpretation": True,
    "graft_type": "sgd",
    "nesterov": True,
    "exponent_override": 0,
    "shard_optimizer_states": False,
    "best_effort_memory_usage_reduction": False,
    "inverse_failure_threshold": 0.1,
    "moving_average_for_momentum": False,
    "skip_preconditioning_dim_size_gt": 4096,
    "clip_by_scaled_gradient_norm": None,
    "relative_matrix_epsilon": True,
    "lobpcg_topk_precondition": 0,
    "lobpcg_max_iter": 0,
    "merge_small_dims_block_size": 4096,
    "precondtioner_type": "all",  # the published spelling
    "skip_preconditioning_rank_lt": 1,
    "decoupled_learning_rate": True,
    "decoupled_weight_decay": False,
}
NEEDED = ("learning_rate", "block_size")
# Settings of who computes a root, how fast, and what is logged. They do not change the update.
WITHOUT_EFFECT = (
    "batch_axis_name",
    "statistics_partition_spec",
    "preconditioner_partition_spec",
    "num_devices_for_pjit",
    "precision",
    "tensordot_precision",
    "generate_training_metrics",
)
SIDES = ("all", "input")


def shampoo_from_reference_settings(
    *, root_dtype: jax.typing.DTypeLike = jnp.float32, **settings: Any
) -> optax.GradientTransformation:
    """Distributed Shampoo that returns final updates: −learning_rate · momentum.

    Names, defaults and meanings are those of `distributed_shampoo` in optax-shampoo 0.0.6. No
    parameter is excluded, or treated as a stack, because of its path. `learning_rate` is a number
    or a function of the finished updates. `root_dtype` float64 needs `jax.enable_x64`.

    Raises ValueError for a setting that is missing, unknown or not offered.
    """
    _check(settings)
    given = DEFAULTS | settings
    rate, decay = given["learning_rate"], given["weight_decay"]

    def rate_at(count: Array) -> Array | float:
        return rate(count) if callable(rate) else rate

    core = shampoo(
        to_config(given),
        beta1=given["beta1"],
        beta2=given["beta2"],
        nesterov=given["nesterov"],
        weight_decay=0.0 if given["decoupled_weight_decay"] else decay,
        graft_rate=None if given["decoupled_learning_rate"] else rate_at,
        root_dtype=root_dtype,
        by_layer=False,
    )

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        now = rate_at(state.step)
        direction, state = core.update(grads, state, params)
        if decay and given["decoupled_weight_decay"]:
            direction = jax.tree.map(lambda m, p: m + now * decay * p, direction, params)
        factor = now if given["decoupled_learning_rate"] else 1.0
        return jax.tree.map(lambda m: -factor * m, direction), state

    return optax.GradientTransformation(core.init, update)


def to_config(given: dict[str, Any]) -> ShampooConfig:
    """Pastel's configuration with the same meaning."""
    merge = given["best_effort_shape_interpretation"]
    return ShampooConfig(
        block_size=max(given["block_size"], 0),
        merge_dims=given["merge_small_dims_block_size"] if merge else 0,
        graft=_name(given["graft_type"]),
        start_step=given["start_preconditioning_step"],
        statistics_every=given["statistics_compute_steps"],
        roots_every=given["preconditioning_compute_steps"],
        delayed_roots=given["shard_optimizer_states"],
        max_dim=given["skip_preconditioning_dim_size_gt"],
        min_rank=given["skip_preconditioning_rank_lt"],
        exclude=(),
        moving_average=given["moving_average_for_momentum"],
        matrix_epsilon=given["matrix_epsilon"],
        relative_epsilon=given["relative_matrix_epsilon"],
        graft_epsilon=given["diagonal_epsilon"],
        graft_clip=given["clip_by_scaled_gradient_norm"] or 0.0,
        exponent=given["exponent_override"],
        failure_threshold=given["inverse_failure_threshold"],
        quantize_momentum=given["best_effort_memory_usage_reduction"],
        one_sided=_name(given["precondtioner_type"]) == "input",
    )


def _name(choice: Any) -> Any:
    """The name of a choice, which is a string or a member of the package's enumerations."""
    return str(getattr(choice, "name", choice)).lower()


def _check(settings: dict[str, Any]) -> None:
    known = [*NEEDED, *DEFAULTS, *WITHOUT_EFFECT]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"Shampoo has no setting {name}; {hint}")
    for name in NEEDED:
        if name not in settings:
            raise ValueError(f"Shampoo needs the setting {name}")
    if settings.get("lobpcg_topk_precondition"):
        # There it turns down the roots of every block smaller than the largest.
        raise ValueError("Shampoo's lobpcg_topk_precondition is not offered; use 0")
    for name, choices in (("graft_type", get_args(Graft)), ("precondtioner_type", SIDES)):
        if name in settings and _name(settings[name]) not in choices:
            raise ValueError(
                f"Shampoo's {name} {settings[name]!r} is not one of {', '.join(choices)}"
            )
