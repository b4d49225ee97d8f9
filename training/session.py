"""What every training run does around its loop: resume, record its start, track, save, stop."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from training import parallel, runs
from training.checkpoint import Checkpoints
from training.config import CheckpointConfig, TrackerConfig
from training.loop import Hook, StopSignal, fit
from training.parallel import Devices
from training.state import TrainState
from training.step import Step
from training.trackers import Pace, Tracker


@runtime_checkable
class RunConfig(Protocol):
    """The part of a run's configuration (a dataclass) that is read here."""

    @property
    def training(self) -> Pace: ...
    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def tracker(self) -> TrackerConfig: ...


@dataclass(frozen=True)
class Work:
    """What is trained: an update, its batches, and what happens between updates."""

    step: Step
    batch_at: Callable[[int], dict[str, np.ndarray]]
    hooks: Sequence[Hook] = ()
    between: Callable[[int, TrainState], TrainState] | None = None


def run_training(
    folder: Path,
    config: RunConfig,
    config_yaml: str,
    devices: Devices,
    state: TrainState,
    about: dict[str, Any],
    begin: Callable[[Tracker], Work],
) -> TrainState:
    """Train from the newest checkpoint in `folder`, or from `state`, to the last update or a stop.

    `about` names what the run depends on besides its settings, such as the data's digest; it is
    saved with each checkpoint and must be the same on resume. `begin` makes the work, once it is
    sure that there is some.
    """
    steps = config.training.steps
    with (
        runs.sole_user(folder),
        StopSignal() as stop,
        Checkpoints(folder / "checkpoints", config.checkpoint) as checkpoints,
    ):
        state = checkpoints.resume(state, about)
        start = int(state.step)
        if start >= steps:
            print(f"{folder} is finished at step {start}; a larger --training.steps trains on")
            return state
        if start:
            print(f"{folder}: resumed from step {start}")
        runs.write_start(folder, config_yaml, devices.describe())
        settings = dataclasses.asdict(config)  # type: ignore[call-overload]
        with Tracker(config.tracker, config.training, folder, start, settings) as tracker:
            work = begin(tracker)
            print("compiling; the first update takes a while", flush=True)

            def save(step: int, state: TrainState) -> None:
                tracker.sync()
                checkpoints.save(state, about)

            state = fit(
                parallel.compile_step(work.step, devices),
                parallel.place(state, devices),
                work.batch_at,
                steps,
                record=tracker.record,
                hooks=work.hooks,
                save=Hook(config.checkpoint.every, save),
                between=work.between,
                stop=stop,
            )
    done = int(state.step)
    print(f"{folder}: step {done} of {steps}", end="")
    print("" if done == steps else "; the same command goes on from here")
    return state
