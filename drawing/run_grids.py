"""Grids of pictures that a run draws while it trains, into RUN/grids."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp

from config import Config
from data.pictures.grids import picture_grid, save_png
from data.records import Records
from drawing.drawer import make_drawer, picture_seed
from model import transformer
from model.transformer import Transformer
from training.devices import fitting, placing, processes
from training.devices.devices import Devices
from training.recipe import Run
from training.update.build import make_state
from training.update.state import TrainState

CAPTIONS = 6
"""Captions in a grid without grids.prompts."""


def make_grids(
    config: Config, model: Transformer, records: Records, run: Run
) -> Callable[[int, TrainState], Mapping[str, Path] | None]:
    """An action for a hook: draws the same prompts with the same seeds into RUN/grids. Process 0
    draws; the other processes take part in all-gathering the weights. Nothing is drawn if a device
    cannot hold the whole weights."""
    devices = run.devices
    if not have_room_to_draw(config, model, devices):
        return lambda step, state: None
    if not devices.is_first:
        return lambda step, state: placing.on_first_device(state.weights) and None
    prompts = list(config.grids.prompts) or records.some_captions(CAPTIONS)
    drawer = make_drawer(model, config.sampling, run.folder, rows_per_call=len(prompts))
    seeds = [picture_seed(config.seed, prompt, 0) for prompt in prompts]

    def draw(step: int, state: TrainState) -> Mapping[str, Path] | None:
        path = run.folder / "grids" / f"step-{step:06}.png"
        params = placing.on_first_device(state.weights)
        try:
            pictures = drawer.draw(params, prompts, seeds)[:, None]
            save_png(path, picture_grid(prompts, pictures), {"prompts": prompts})
        except (ValueError, OSError) as error:  # NaN, memory, a full disk: training continues
            print(f"no grid at step {step}: {error}", flush=True)
            return None
        return {"grid": path}

    return draw


def have_room_to_draw(config: Config, model: Transformer, devices: Devices) -> bool:
    """True if a device can hold the whole weights twice (in training and in decoding layout) beside
    its shard of the state. Prints a line if not. Every process gets the same answer."""
    if devices.fsdp * devices.tensor == 1:
        return True
    width = jnp.dtype(config.training.compute_dtype).itemsize
    need = transformer.count_params(config.model) * (4 + width)
    shapes = placing.shapes(make_state(config, model.init), devices)
    need += fitting.bytes_on_device(shapes)
    room = processes.from_process_0(lambda: fitting.device_memory(devices))
    if need > room:
        print(
            f"no picture grids: whole weights beside a shard of the state take {need / 1e9:.3f} "
            f"GB of a device's {room / 1e9:.3f} GB; draw with generate.py where there is room",
            flush=True,
        )
    return need <= room
