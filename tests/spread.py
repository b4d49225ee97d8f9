"""Updates on several devices, for tests that choose the parts themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import optax

from training.devices import in_step
from training.devices.devices import Devices
from training.update.step import StepParts, train_step


def spread_step(
    devices: Devices,
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    **others: Any,
) -> Callable[..., Any]:
    """The update to compile for these devices, gathered and averaged as
    training/update/build.py does it. `others` are further fields of StepParts."""
    loss, mean = in_step.with_gathered_params(loss, devices), in_step.make_mean(devices)
    return partial(
        train_step, StepParts(loss, optimizer, schedule, mean_over_devices=mean, **others)
    )
