"""Parameters that stay as they are, by patterns of their paths."""

from typing import Any

import jax
import optax

from optim.paths import map_named, matches

SHOWN = 6


def freeze(
    optimizer: optax.GradientTransformationExtraArgs,
    frozen: tuple[str, ...] = (),
    train_only: tuple[str, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    """Zero for parameters that match `frozen`, or that do not match a non-empty `train_only`.

    They have no state in the optimizer and no part in the norm that it clips by. Its `init` raises
    ValueError for a pattern that matches nothing, and when nothing is left to train.
    """
    if not frozen and not train_only:
        return optimizer

    def label(name: str, _: Any) -> str:
        trained = matches(name, train_only) if train_only else True
        return "trained" if trained and not matches(name, frozen) else "frozen"

    def labels(params: Any) -> Any:
        return map_named(label, params)

    both = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)

    def init(params: Any) -> Any:
        _check_patterns(params, {"freeze": frozen, "train_only": train_only})
        if "trained" not in jax.tree.leaves(labels(params)):
            raise ValueError("optim.freeze and optim.train_only leave nothing to train")
        return both.init(params)

    return optax.GradientTransformationExtraArgs(init, both.update)


def _check_patterns(params: Any, patterns: dict[str, tuple[str, ...]]) -> None:
    names = jax.tree.leaves(map_named(lambda name, _: name, params))
    for field, given in patterns.items():
        for pattern in given:
            if not any(matches(name, [pattern]) for name in names):
                some = ", ".join(names[:: max(len(names) // SHOWN, 1)][:SHOWN])
                raise ValueError(
                    f"optim.{field} {pattern!r} matches none of {len(names)} parameters, "
                    f"such as {some}"
                )
