"""The sizes of batches and of micro-batches.

Batches may grow during a run: small ones learn more per example early, large ones use the devices
better late (PaLM: 512, 1,024, 2,048; arXiv:2204.02311, table 2).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar, overload

import jax.numpy as jnp
from jaxtyping import Array

from optim import wide
from optim.lengths import updates_for
from optim.wide import Wide
from training.config import RunConfig, TrainingConfig
from training.devices.devices import Devices, check_batch
from training.spans import parse_ramp

C = TypeVar("C", bound=RunConfig)
BATCHES = "batches"
"""Key of a checkpoint's JSON with the batch sizes of the updates before it."""


@dataclass(frozen=True)
class BatchPlan:
    """The size of every batch: `first`, until the ramp begins. The ramp is a list of pairs (batch,
    size of this and later batches), in ascending order of batches.

    The ramp counts batches, not updates. They differ only if batches are skipped
    (training/skips.py); then the ramp comes earlier by as many updates.
    """

    first: int
    ramp: tuple[tuple[int, int], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of batches, in order."""
        return self.first, *(size for _, size in self.ramp)

    @overload
    def examples(self, batch: int) -> int: ...
    @overload
    def examples(self, batch: Array) -> Wide: ...
    def examples(self, batch: object) -> Any:
        """The exact number of examples in all batches before this one. A traced number gives a
        Wide, because there may be more than 2³¹."""
        if isinstance(batch, int):
            return sum(size * count for size, count in self._counts(batch, min, max))
        counts = self._counts(batch, jnp.minimum, jnp.maximum)
        return reduce(wide.plus, (wide.times(count, size) for size, count in counts))

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Pairs (batch, size of this and later batches), the first of them for batch 0."""
        return [(0, self.first), *self.ramp]

    def after(self, before: Sequence[Sequence[int]], batch: int) -> "BatchPlan":
        """The plan with the parts of `before` up to `batch`, and its own parts after it. So a run
        that resumes with other sizes continues at the next example."""
        if not all(_is_part(part) for part in before) or (before and before[0][0] != 0):
            raise ValueError(f"the checkpoint says that its batches were {before!r:.80}")
        current = max((part for part in self.parts if part[0] <= batch), key=lambda part: part[0])
        parts = [(start, size) for start, size in before if start < batch]
        parts += [(batch, current[1]), *(part for part in self.parts if part[0] > batch)]
        changes = [part for i, part in enumerate(parts) if i == 0 or part[1] != parts[i - 1][1]]
        return BatchPlan(changes[0][1], tuple(changes[1:]))

    def _counts(
        self, batch: Any, least: Callable[..., Any], most: Callable[..., Any]
    ) -> Iterator[tuple[int, Any]]:
        """(size, number of batches of this size before `batch`) for each size."""
        parts = self.parts
        for i, (start, size) in enumerate(parts):
            count = most(batch - start, 0)
            is_last = i + 1 == len(parts)
            yield size, count if is_last else least(count, parts[i + 1][0] - start)


def _is_part(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(type(number) is int and 0 <= number < 2**62 for number in value)


def make_plan(training: TrainingConfig) -> BatchPlan:
    """The sizes of the batches of a configuration."""
    return BatchPlan(training.batch_size, tuple(map(parse_ramp, training.batch_ramp)))


def in_updates(config: C, examples: int) -> C:
    """The configuration with training.epochs, if it is set, converted to training.steps: the
    smallest number of updates that make up this many passes over the examples, or
    training.least_steps if that is more.

    Raises:
        ValueError: the number of examples is unknown (0).
    """
    training = config.training
    if not training.epochs:
        return config
    if not examples:
        raise ValueError("training.epochs: this trainer cannot count passes; give training.steps")
    wanted = math.ceil(round(training.epochs * examples, 6))  # 0.1 · 30 is a little more than 3
    steps = updates_for(max(wanted, 1), make_plan(training).examples)
    steps = max(steps, training.least_steps)
    return replace(config, training=replace(training, steps=steps, epochs=0.0))


def micro_batch_size(training: TrainingConfig, devices: Devices) -> int:
    """Examples in a device's micro-batch, the same for all batches: training.micro_batch_size, or a
    device's share of the first batch divided by training.accumulation_steps.

    Raises:
        ValueError: a batch is not a multiple of the devices' micro-batches; or the setting is
            `auto`, which training/devices/fitting.py handles.
    """
    plan, parts = make_plan(training), training.accumulation_steps
    if training.micro_batch_size == "auto":
        raise ValueError("training.micro_batch_size auto is not possible here; name a number")
    if training.micro_batch_size:
        share = devices.num_shares * training.micro_batch_size
        if plan.first % share:
            raise ValueError(
                f"batch_size {plan.first} is not a multiple of {devices.num_shares} device(s) × "
                f"micro_batch_size {training.micro_batch_size}; try "
                f"{max(plan.first // share, 1) * share}"
            )
        parts = plan.first // share
    check_batch(plan.first, devices, parts)
    size = plan.first // (devices.num_shares * parts)
    for larger in plan.sizes[1:]:
        share = devices.num_shares * size
        if larger % share:
            raise ValueError(
                f"training.batch_ramp {larger} is not a multiple of {devices.num_shares} device(s) "
                f"× {size} examples, the micro-batch of batch_size {plan.first}; try "
                f"{max(larger // share, 1) * share}"
            )
    return size
