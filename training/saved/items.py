"""The arrays of a training state as a checkpoint holds them: `params`, `ema`, and the `rest` by
name."""

from collections.abc import Mapping

import jax
from jaxtyping import PyTree

from training.saved.digests import describe, shape_of
from training.update.state import TrainState

OPTIONAL = (".loss_scale", ".guard", ".players")
"""Parts of a state that a checkpoint may lack, or hold in addition."""
Items = dict[str, PyTree]
"""`params` and `ema` are trees, `rest` has arrays by name."""


def items_of(state: TrainState) -> Items:
    """The arrays to save: parameters as trees; the rest flat, as optax may nest it differently."""
    rest, _ = jax.tree.flatten_with_path(state._replace(params=None, ema=None))
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in rest}
    averaged = {} if state.ema is None else {"ema": state.ema}
    return {"params": state.params, "rest": flat, **averaged}


def parts_to_renew(like: TrainState, saved: Mapping[str, str]) -> tuple[str, ...]:
    """The optional parts that the step with the digests `saved` lacks, or holds in another size.
    They begin anew, as they are in `like`."""
    return tuple(
        part
        for part in OPTIONAL
        if any(
            saved.get(f"rest/{name}", "").split(" ")[0] != describe(leaf)
            for name, leaf in items_of(like)["rest"].items()
            if name.startswith(part)
        )
    )


def items_to_read(like: TrainState, saved: Mapping[str, str], renewed: tuple[str, ...]) -> Items:
    """The arrays to read for a state like `like`: without the `renewed` parts, and without averages
    if the step has none. Optional parts that only the step has are added: they are checked, too."""
    wanted = items_of(like)
    wanted["rest"] = {
        name: leaf for name, leaf in wanted["rest"].items() if not name.startswith(renewed)
    }
    for name, digest in saved.items():
        item, _, key = name.partition("/")
        if item == "rest" and key.startswith(OPTIONAL) and key not in wanted["rest"]:
            wanted["rest"][key] = shape_of(digest, like.step)
    if not any(name.startswith("ema/") for name in saved):
        wanted.pop("ema", None)
    return wanted


def state_of(items: Items, like: TrainState, renewed: tuple[str, ...]) -> TrainState:
    """The state with the items that were read, and with the `renewed` parts of `like`. Missing
    averages start from the parameters."""
    params, ema = items["params"], items.get("ema")
    rest = [
        leaf if name.startswith(renewed) else items["rest"][name]
        for name, leaf in items_of(like)["rest"].items()
    ]
    treedef = jax.tree.structure(like._replace(params=None, ema=None))
    if like.ema is not None and ema is None:
        ema = jax.tree.map(lambda x: x.copy().astype("float32"), params)
    return jax.tree.unflatten(treedef, rest)._replace(params=params, ema=ema)
