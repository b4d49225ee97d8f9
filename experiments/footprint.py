"""Computes memory and FLOPs of a preset's training step on a TPU pod that you do not have.

python -m experiments.footprint presets/billions_6_7.yaml --topology v4:4x4x4
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import runtime

runtime.prepare()

import importlib.util
import os
from dataclasses import dataclass, field, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from command_line.parser import parse_config, run
from common.batch import TokenBatch
from config import Config
from model import transformer
from model.loss import make_loss
from recipe import batch_shapes
from starting import adapted
from training.config import ParallelConfig, TrainingConfig
from training.devices import placing
from training.devices.batching import micro_batch_size
from training.devices.devices import Devices, arrange
from training.devices.fitting import GB, compile_memory, too_much
from training.recipe import Objective
from training.reports.flops import count_flops
from training.update.build import make_state, make_update
from training.update.state import TrainState
from training.update.step import Step

T = TypeVar("T", bound=TrainingConfig)
INSTALL = 'pip install "jax[tpu]"'
MEMORY_GIB = {
    "TPU v2": 8,
    "TPU v3": 16,
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5": 95,
    "TPU v5p": 95,
    "TPU v6 lite": 32,
}
"""Memory of a jax device by its kind: of a core for v2 and v3, of a chip for the others."""
MEGACORE = ("v4", "v5p")
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # the devices of this machine
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask a metadata server for the kind of machine
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else libtpu allows one process at a time
}


@dataclass(frozen=True)
class FootprintConfig:
    """The preset to compile, and the devices to compile for."""

    preset: str = field(metadata={"positional": True, "nargs": None, "help": "a YAML of train.py"})
    """The preset, such as presets/billions_6_7.yaml."""
    topology: str = "v4:4x4x4"
    """Generation and shape of a TPU slice, such as v4:4x4x4, v5e:16x16 or v5p:2x2x2; cpu:8 means 8
    virtual devices of this machine."""
    fsdp: int = 0
    """Number of shards of weights and optimizer state; 0 = number of devices / tensor."""
    tensor: int = 1
    """Number of shards of heads, feed-forwards and vocabularies."""
    batch_size: int = 0
    """Examples per update, constant during the run; 0 = the preset's setting."""
    accumulation_steps: int = 0
    """Micro-batches per update; 0 = the preset's setting."""
    memory_gib: float = 0.0
    """Memory of a device in GiB; 0 = the device's own memory, or no limit for CPUs."""


def main(config: FootprintConfig) -> None:
    """Print the memory and FLOPs. Raises ValueError if the step does not fit; the message says by
    how much."""
    preset = parse_config(Config, [f"--config={config.preset}"])
    training = override(preset.training, config)
    preset = replace(preset, training=training)
    all_devices = describe_devices(config.topology)
    fsdp = config.fsdp or max(len(all_devices) // config.tensor, 1)
    devices = arrange(all_devices, ParallelConfig("mesh", 0, fsdp, config.tensor))
    rows = micro_batch_size(training, devices) * devices.num_shares
    gib = config.memory_gib or memory_of(all_devices[0])

    size = transformer.count_params(preset.model)
    print(f"{config.preset} on {config.topology}: {devices.describe()}")
    print(
        f"{size:,} parameters; {training.batch_size:,} examples an update, "
        f"{training.batch_size // rows} micro-batch(es)"
    )
    step, state, batch = make_shapes(preset, devices)
    flops = count_flops(step, state, batch)
    print(
        f"{flops:.3e} FLOPs an update ({flops / training.batch_size:.3e} an example, "
        f"{flops / len(devices):.3e} a device)",
        flush=True,
    )
    report(compile_memory(step, state, batch, devices), gib * 2**30)


def override(training: T, config: FootprintConfig) -> T:
    """The settings with the batch of `config`. A given batch_size removes the preset's batch size
    ramp; given accumulation_steps remove its micro_batch_size."""
    if config.batch_size:
        training = replace(training, batch_size=config.batch_size, batch_ramp=())
    if config.accumulation_steps:
        parts = config.accumulation_steps
        training = replace(training, accumulation_steps=parts, micro_batch_size=0)
    return training


def memory_of(device: jax.Device) -> float:
    """Memory of a device in GiB; 0 for CPUs. Raises ValueError if it is unknown."""
    if device.platform != "cpu" and device.device_kind not in MEMORY_GIB:
        raise ValueError(
            f"the memory of a {device.device_kind} is not known; give it with --memory_gib"
        )
    return MEMORY_GIB.get(device.device_kind, 0)


def describe_devices(topology: str) -> list[jax.Device]:
    """The devices of a topology, whether this machine has them or not.

    Raises:
        ValueError: libtpu is missing, or does not know the topology.
    """
    generation, _, shape = topology.partition(":")
    if generation == "cpu":
        return _virtual_devices(int(shape) if shape.isdecimal() else 0)
    os.environ.update(TPU_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"compiling for a TPU that this machine lacks needs libtpu: {INSTALL}")
    core = "megacore" if generation in MEGACORE else "default"
    try:
        described = topologies.get_topology_desc(topology, "tpu", chip_config_name=core)
    except Exception as error:
        raise ValueError(
            f"no topology {topology!r} (such as v4:4x4x4, v5e:16x16, v5p:2x2x2): {error}"
        ) from None
    return list(described.devices)


def _virtual_devices(count: int) -> list[jax.Device]:
    if count < 1:
        raise ValueError("a topology of CPUs is cpu:N with N at least 1, such as cpu:8")
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # jax has started already: use its devices
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"cpu:{count} needs {count} devices, but jax has started with {len(devices)}"
        )
    return devices[:count]


def make_shapes(config: Config, devices: Devices) -> tuple[Step, TrainState, TokenBatch]:
    """The update step of a configuration, and the shapes of its state and its batch, with their
    shardings."""
    model = adapted.build(config.model, config.optim.adapters, config.training.compute_dtype)
    empty = jnp.zeros((1, config.model.text_length), jnp.int32)
    codes = config.model.image_vocab_size
    loss = make_loss(model, (empty, empty == 0), codes, config.loss)
    step = make_update(config, Objective(loss=loss), devices)
    state = placing.shapes(make_state(config, model.init), devices)
    return step, state, batch_shapes(config.model, config.training.batch_size)


def report(parts: dict[str, int], limit: float) -> None:
    """Print bytes per device, part by part. Raises ValueError if they exceed the limit."""
    total = sum(parts.values())
    for name, size in parts.items():
        print(f"{size / GB:10.3f} GB  {name}")
    print(f"{total / GB:10.3f} GB  a device in all", end="")
    print(f", of {limit / GB:.1f} GB: {total / limit:.0%}" if limit else "")
    if limit and total > limit:
        raise ValueError(too_much(total, int(limit)))


if __name__ == "__main__":
    run(main, FootprintConfig, prog="python -m experiments.footprint", about=__doc__ or "")
