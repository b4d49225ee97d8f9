"""First states of tests' runs, made without programs of their own; and runs that share programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import jax
import numpy as np
import pytest

import train
from training import session
from training.config import RunConfig
from training.devices import placing
from training.devices.devices import Devices
from training.update import shared
from training.update.shared import Programs
from training.update.state import TrainState

T = TypeVar("T")


def create_eagerly(
    programs: Programs | None, make: Callable[[], TrainState], config: RunConfig, devices: Devices
) -> TrainState:
    """A state in place of `shared.create`'s, without a program of its own, for the reason of
    `tests.tiny.first_params`."""
    return placed(make, devices)


@contextmanager
def sharing(programs: Programs) -> Iterator[None]:
    """`train.main` compiles an update once for all runs that differ in length, seed or rate only.
    That this changes no bit is tested in training/test_shared.py. First states are made
    eagerly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train", partial(session.train, programs=programs))
        patch.setattr(shared, "create", create_eagerly)
        yield


def placed(make: Callable[[], T], devices: Devices) -> T:
    """The result of `make()`, in place of `placing.create`'s. Its arrays are copies: an update may
    be given them."""
    return placing.place(jax.tree.map(np.array, make()), devices)
