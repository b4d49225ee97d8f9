"""Checkpoints of a run: all training state in one atomic step. Only this file knows orbax."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from training.config import CheckpointConfig
from training.state import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # reads that orbax has let go of


class Checkpoints:
    """The steps under RUN/checkpoints. Saves happen in the background."""

    def __init__(self, folder: Path, config: CheckpointConfig | None = None) -> None:
        keep = (config.keep or None) if config else None
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=config is not None)
        arrays = {name: ocp.StandardCheckpointHandler() for name in ("params", "rest")}
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=options,
            item_handlers={**arrays, "about": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, about: dict[str, Any]) -> None:
        """Write the state, and `about` (JSON) beside it. Nothing happens if that step is there."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        self._manager.save(step, args=ocp.args.Composite(about=ocp.args.JsonSave(about), **items))

    def about(self, step: int) -> dict[str, Any]:
        """The JSON saved beside a step."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        with self._readable(step):
            return self._manager.restore(step, args=args)["about"]

    def resume(self, state: TrainState, about: dict[str, Any]) -> TrainState:
        """The newest state saved, or `state` where none is yet.

        Raises:
            ValueError: when what was saved beside it is not `about`, such as other token records.
        """
        step = self.latest_step()
        if step is None:
            return state
        saved = self.about(step)
        changed = [
            f"{k} (was {saved.get(k)}, now {v})" for k, v in about.items() if saved.get(k) != v
        ]
        if changed:
            raise ValueError(f"this run was trained with other data: {', '.join(changed)}")
        return self.restore(state, step)

    def restore(self, like: TrainState, step: int) -> TrainState:
        """The state of a step, placed like `like`. Raises ValueError if it is of another shape."""
        found = self._restore(step, _items(like))
        treedef = jax.tree.structure(like._replace(params=None))
        rest = jax.tree.unflatten(treedef, [found["rest"][k] for k in _items(like)["rest"]])
        return rest._replace(params=found["params"])

    def restore_params(self, like: Any, step: int) -> Any:
        """Only the parameters of a step; `like` has their shapes."""
        return self._restore(step, {"params": like})["params"]

    def _restore(self, step: int, like: dict[str, Any]) -> Any:
        args = {name: ocp.args.StandardRestore(item) for name, item in like.items()}
        with self._readable(step):
            found = self._manager.item_metadata(step)
            for name, item in like.items():
                # Before reading: where a shape differs orbax lets go of reads that then complain.
                _check_shapes(found[name], item)
            return self._manager.restore(step, args=ocp.args.Composite(**args))

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        """What is wrong with a step's files, in one line that names it."""
        try:
            yield
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(
                f"checkpoint {self._manager.directory}/{step} is damaged or does not fit this "
                f"configuration: {str(error)[:300]}"
            ) from error

    def close(self) -> None:
        """Wait for the saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _check_shapes(found: Any, like: Any) -> None:
    """Raises ValueError naming the first array whose shape is not as wanted."""
    have = dict(jax.tree.flatten_with_path(getattr(found, "tree", found))[0])
    for path, leaf in jax.tree.flatten_with_path(like)[0]:
        saved = have.get(path)
        if saved is not None and tuple(saved.shape) != tuple(leaf.shape):
            name = ".".join(str(getattr(part, "key", part)) for part in path)
            raise ValueError(f"{name} is {tuple(saved.shape)}, not {tuple(leaf.shape)}")


def _items(state: TrainState) -> dict[str, Any]:
    """Parameters as the tree they are; the rest flat by path, whatever optax nests it in."""
    rest, _ = jax.tree.flatten_with_path(state._replace(params=None))
    return {"params": state.params, "rest": {jax.tree_util.keystr(k): leaf for k, leaf in rest}}
