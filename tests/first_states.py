"""First states of tests' runs, made without programs of their own."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from training.config import RunConfig
from training.devices import placing
from training.devices.devices import Devices
from training.update.shared import Programs
from training.update.state import TrainState

T = TypeVar("T")


def create_eagerly(
    programs: Programs | None, make: Callable[[], TrainState], config: RunConfig, devices: Devices
) -> TrainState:
    """A state in place of `shared.create`'s, without a program of its own, for the reason of
    `tests.tiny.first_params`."""
    return placed(make, devices)


def placed(make: Callable[[], T], devices: Devices) -> T:
    """The result of `make()`, in place of `placing.create`'s. Its arrays are copies: an update may
    be given them."""
    return placing.place(jax.tree.map(np.array, make()), devices)
