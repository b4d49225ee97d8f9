"""Compiles the update of a configuration as train.py does, and times several updates in turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import choose_clock
from common.batch import TokenBatch
from config import Config
from model import transformer
from model.loss import make_loss
from recipe import transformer_statistics
from training.devices import parallel, placing
from training.devices.devices import Devices
from training.recipe import Objective
from training.update.build import make_state, make_update
from training.update.step_metrics import StepMetrics

WARM_UP = 3
"""Untimed updates. The first ones on a CPU take three times as long: they touch new memory."""


@dataclass
class Workbench:
    """Devices, batches on the host, and training states. Configurations whose states have the same
    shapes share one state, so that large models fit in memory."""

    devices: Devices
    batches: Sequence[TokenBatch[np.ndarray]]
    states: dict[Any, Any] = field(default_factory=dict)

    def keep_only(self, update: "Update") -> None:
        """Free all states but this update's."""
        self.states = {k: state for k, state in self.states.items() if k == update.kind}


class Update:
    """The compiled update of one configuration, from a batch on the host to the new state."""

    def __init__(self, config: Config, bench: Workbench) -> None:
        model = transformer.build(config.model, config.training.compute_dtype)
        empty = jnp.zeros((1, config.model.text_length), jnp.int32)
        codes = config.model.image_vocab_size
        loss = make_loss(model, (empty, empty == 0), codes, config.loss)
        objective = Objective(loss=loss, model_statistics=partial(transformer_statistics, model))
        step = make_update(config, objective, bench.devices)
        self.config, self.finished = config, 0
        self._create, self._bench = make_state(config, model.init), bench
        shapes = jax.eval_shape(self._create)
        leaves, tree = jax.tree.flatten(shapes)
        self.kind = tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        self.params_bytes, self.optimizer_bytes = (
            tree_bytes(part) for part in (shapes.params, shapes.opt_state)
        )
        clock = choose_clock()
        start = clock()
        lowered = parallel.lower_step(step, bench.devices, self._state(), bench.batches[0])
        self._compiled = lowered.compile()
        self.compiling_seconds = clock() - start
        used: Any = self._compiled.memory_analysis()
        self.temporary_bytes = used.temp_size_in_bytes
        self.argument_bytes = used.argument_size_in_bytes
        self.copied_bytes = used.output_size_in_bytes - used.alias_size_in_bytes
        """Bytes of the new state that do not reuse the old state's memory."""

    def __call__(self) -> StepMetrics:
        """One update; returns the metrics."""
        bench = self._bench
        batch = bench.batches[self.finished % len(bench.batches)]
        state = self._state()
        del bench.states[self.kind]  # it is donated, so it is lost if the update fails
        new, metrics = self._compiled(state, parallel.arrange_rows(batch, bench.devices))
        jax.block_until_ready((new, metrics))
        bench.states[self.kind] = new
        self.finished += 1
        return metrics

    def _state(self) -> Any:
        states = self._bench.states
        if self.kind not in states:
            states[self.kind] = placing.create(self._create, self._bench.devices)
        return states[self.kind]


def time_in_turns(
    updates: Sequence[Update], rounds: int, warm_up: int = WARM_UP
) -> list[list[float]]:
    """The seconds of `rounds` calls of each update. Each round calls every update once, so that a
    change in the machine's speed affects all alike."""
    clock = choose_clock()
    times: list[list[float]] = [[] for _ in updates]
    for update in updates:
        for _ in range(warm_up):
            update()
    for _ in range(rounds):
        for update, update_times in zip(updates, times, strict=True):
            start = clock()
            update()
            update_times.append(clock() - start)
    return times


def tree_bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def change(config: Config, name: str, value: object) -> Config:
    """The configuration with another value of one setting, such as model.remat. Raises ValueError
    if it conflicts with other settings."""
    section, field = name.split(".")
    changed: Any = replace(getattr(config, section), **{field: value})
    return replace(config, **{section: changed})


def value_of(config: Config, name: str) -> Any:
    section, field = name.split(".")
    return getattr(getattr(config, section), field)
