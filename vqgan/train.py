"""Train an autoencoder with a codebook on pictures: compose the parts and run the loop.

python -m vqgan.train --config presets/vqgan_openmoji.yaml --data.source=pictures/all
"""

import runtime

runtime.prepare()

from training import signals

if __name__ == "__main__":
    signals.leave_early()

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from config import from_yaml, run, to_tree, to_yaml
from data.batches import order
from data.reading import read_pictures, tell_skipped
from data.sources import open_source
from data.splits import TRAIN, split_of
from optim.config import OptimConfig
from optim.ema import init_ema, make_ema
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from training import agreement, parallel, processes, runs
from training.batching import BatchPlan
from training.config import CheckpointConfig, ParallelConfig, TrackerConfig
from training.loop import Hook
from training.parallel import Devices
from training.saving import check_keep_best
from training.session import Work, run_training
from training.spikes import init_guard
from training.state import TrainState
from training.step import PLAIN, make_train_step
from training.trackers import Tracker
from vqgan import model_card, pretrained
from vqgan.autoencoder import Autoencoder, build
from vqgan.config import LossConfig, QuantizerConfig, TrainingConfig, VQGANConfig
from vqgan.finetuning import fit, keeps_codebook
from vqgan.objective import make_codebook_care, make_loss, make_reconstruction
from vqgan.pictures import Pictures, PictureStream, make_figures, spread, write_grid

GRID_PICTURES = 64
JUDGED = 4000  # training pictures that the card's figures are of, at most
HELD_OUT = 0.05
LAST = 0.9  # share of the updates after which codes are left where they are


@dataclass(frozen=True)
class PicturesConfig:
    """What is trained on."""

    source: str = "pictures/all"
    """A folder of pictures, a folder, list, glob or {000..123} range of webdataset tars, or what
    datasets.save_to_disk wrote; captions are not needed. All pictures are held in memory, at
    12 KB for one of 64 × 64."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that a VQGAN's training run is a function of."""

    output_dir: str | None = None
    """Run folder; the same folder again resumes. Default: a new runs/DATE-NAME."""
    allow_changes: tuple[str, ...] = field(
        default=(),
        metadata={
            "nargs": "*",
            "help": "Settings that may differ from those that the run in output_dir was trained "
            "with, or patterns of them, such as optim.*; the ones given now are used.",
        },
    )
    """Settings that may differ on resume."""
    init_from: str = ""
    """VQGAN to start from, with a fresh optimizer: a folder such as vqgan/openmoji, or another
    program's. model.image_size and model.codebook_size may be others than there. Its codebook is
    gone on with if quantizer.warmup_steps is 0 and the size is the same."""
    name: str = "vqgan"
    """Name of the run, in the default folder's name and in the tracker."""
    seed: int = 0
    """Seed of initialisation, order of pictures, shifts and codebook."""
    model: VQGANConfig = field(default_factory=VQGANConfig)
    """The autoencoder."""
    data: PicturesConfig = field(default_factory=PicturesConfig)
    """The pictures."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Start and care of the codebook."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batch and intervals."""
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(every=1000))
    """When checkpoints are written and which are kept."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Devices."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Where metrics go besides metrics.jsonl."""


def main(config: RunConfig) -> None:
    """One run, new or resumed; at its end RUN/vqgan is a release folder."""
    training = config.training
    processes.join(config.parallel)
    devices = parallel.start(config.parallel)
    agreement.check_start(config)
    parallel.check_batch(training.batch_size, devices, training.accumulation_steps)
    check_warmup(config)
    sets = agreement.together(lambda: read_sets(config.data.source, config.model.image_size))
    check_keep_best(config.checkpoint, [*sets, "all"])
    folder, changes = processes.from_first(lambda: open_folder(config))
    folder = Path(folder)

    autoencoder = build(config.model)
    create = partial(
        TrainState.create,
        autoencoder.init,
        make_optimizer(config.optim),
        config.seed,
        init_ema=init_ema if config.optim.ema_decay else None,
        guard=init_guard(PLAIN),
    )

    card = folder / "vqgan" / model_card.FILE

    def begin(tracker: Tracker) -> Work:
        if devices.is_first:
            card.unlink(missing_ok=True)  # it would speak of fewer updates
        size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(create).params))
        counts = ", ".join(f"{len(pictures):,} {name}" for name, pictures in sets.items())
        print(f"{folder}: {size:,} parameters on {devices.describe()}; {counts}", flush=True)
        stream = PictureStream(sets[TRAIN], order, config.seed)
        return Work(
            make_step(config, autoencoder, devices),
            make_batches(config, stream, devices),
            make_hooks(config, autoencoder, sets, folder, tracker, devices),
            make_between(config, autoencoder, stream),
        )

    about = {"pictures": hashlib.blake2b(sets[TRAIN].tobytes(), digest_size=8).hexdigest()}
    prepare = partial(start_from, config, devices) if config.init_from else None
    state = run_training(
        folder, config, to_yaml(config), devices, create, about, begin, changes, prepare=prepare
    )
    done = int(state.step) == training.steps and not card.is_file()
    params = parallel.on_first_device(state.weights)
    if done and devices.is_first:
        release(config, autoencoder, params, sets, folder)


def open_folder(config: RunConfig) -> tuple[str, runs.Changes | None]:
    """The run's folder, made or seen to be one that may be resumed, and what has changed since."""
    folder = Path(config.output_dir) if config.output_dir else runs.new_folder(config.name)
    load = lambda path: to_tree(from_yaml(RunConfig, path))  # noqa: E731
    return str(folder), runs.open_folder(folder, to_tree(config), load)


def start_from(
    config: RunConfig, devices: Devices, state: TrainState
) -> tuple[TrainState, list[str]]:
    """A fresh state with the weights of `init_from`, and what there is to say about it."""
    fresh = jax.tree.map(np.asarray, parallel.on_first_device(state.params))
    params, lines = fit(config.init_from, config.model, fresh)
    params = parallel.place(params, devices)
    ema = None if state.ema is None else jax.jit(init_ema)(params)
    return state._replace(params=params, ema=ema), lines


def check_warmup(config: RunConfig) -> None:
    """Raises ValueError when there could not be a codebook, or not before the run ends."""
    warmup, steps = config.quantizer.warmup_steps, config.training.steps
    if warmup >= steps:
        raise ValueError(
            f"quantizer.warmup_steps {warmup} leaves none of the {steps} training.steps to learn "
            f"with a codebook; try --quantizer.warmup_steps={steps // 4}"
        )
    per_picture, codes = config.model.grid_size**2, config.model.codebook_size
    pictures, enough = config.quantizer.refresh_pictures, -(-codes // per_picture)
    if pictures * per_picture < codes:
        raise ValueError(
            f"quantizer.refresh_pictures {pictures} × {per_picture} tokens are fewer than "
            f"model.codebook_size {codes}; try --quantizer.refresh_pictures={enough}"
        )


def read_sets(path: str, image_size: int) -> dict[str, Pictures]:
    """All pictures of a source by split; `gallery` pictures are neither trained on nor asked for.

    Raises:
        ValueError: none can be read, or none is left to train on.
    """
    source = open_source(path, need_captions=False)
    sets: dict[str, list[np.ndarray]] = {TRAIN: []}
    skipped = []
    for reading in read_pictures(source, image_size):
        if reading.pixels is None or reading.example is None:
            skipped.append((reading.name, reading.problem))
            continue
        split = reading.example.split or split_of(reading.pixels, HELD_OUT)
        sets.setdefault(split, []).append(reading.pixels)
    sets.pop("gallery", None)
    if skipped:
        print(f"warning: {tell_skipped(skipped, len(source))}", file=sys.stderr)
    if not sets[TRAIN]:
        raise ValueError(f"{path} leaves no picture to train on, of {len(source):,}")
    return {name: np.stack(pictures) for name, pictures in sets.items()}


def make_step(config: RunConfig, autoencoder: Autoencoder, devices: Devices) -> Callable:
    """The update of this configuration."""
    training = config.training
    return make_train_step(
        parallel.gather_before(make_loss(autoencoder, config.loss), devices),
        make_optimizer(config.optim, parallel.spread(devices)),
        make_schedule(config.optim, training.steps, BatchPlan(training.batch_size).examples),
        training.accumulation_steps,
        parallel.mean_over(devices),
        update_ema=make_ema(config.optim.ema_decay),
    )


def make_batches(
    config: RunConfig, stream: PictureStream, devices: Devices
) -> Callable[[int], dict[str, np.ndarray]]:
    """Pictures of each update, quantised after the warm-up."""
    size, warmup = config.training.batch_size, config.quantizer.warmup_steps
    rows = devices.rows(size)

    def batch_at(n: int) -> dict[str, np.ndarray]:
        batch = stream.batch(n, size, config.training.shift)
        batch = {**batch, "is_quantized": np.full((size,), n >= warmup)}
        return {name: values[rows] for name, values in batch.items()}

    return batch_at


def make_between(
    config: RunConfig, autoencoder: Autoencoder, stream: PictureStream
) -> Callable[[int, TrainState], TrainState]:
    """k-means when the warm-up ends, and from then on the regular revival of unused codes. The
    pictures are those next in the stream, so that a resumed run does the same."""
    settings, training = config.quantizer, config.training
    start, refresh = make_codebook_care(autoencoder)

    def care(n: int, state: TrainState) -> TrainState:
        since = n - settings.warmup_steps
        is_start = since == 0 and not keeps_codebook(
            config.init_from, config.model, settings.warmup_steps
        )
        every = settings.refresh_every
        is_due = every > 0 and since > 0 and since % every == 0 and n < LAST * training.steps
        if not (is_start or is_due):
            return state
        pictures = stream.next_pictures(n * training.batch_size, settings.refresh_pictures)
        key = jax.random.fold_in(jax.random.key(config.seed), n)
        codebook = (start if is_start else refresh)(state.params, pictures, key)
        codebook = jax.device_put(codebook, state.params["codebook"].sharding)
        ema = None if state.ema is None else {**state.ema, "codebook": codebook}
        return state._replace(params={**state.params, "codebook": codebook}, ema=ema)

    return care


def make_hooks(
    config: RunConfig,
    autoencoder: Autoencoder,
    sets: dict[str, Pictures],
    folder: Path,
    tracker: Tracker,
    devices: Devices,
) -> list[Hook]:
    """Figures of every split, and a grid of held-out pictures with their reconstructions."""
    training = config.training
    reconstruct = make_reconstruction(autoencoder)
    some = {name: spread([p], training.eval_examples) for name, p in sets.items()}
    figures = make_figures(reconstruct, some, config.model.codebook_size)
    held_out = [p for name, p in sets.items() if name != TRAIN] or [sets[TRAIN]]
    shown = spread(held_out, GRID_PICTURES)

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        return figures(parallel.on_first_device(state.weights))

    def draw(step: int, state: TrainState) -> None:
        path = folder / "grids" / f"{step:06d}.png"
        params = parallel.on_first_device(state.weights)
        if devices.is_first:
            write_grid(path, reconstruct, params, shown)
        tracker.image(step, "reconstructions", path)

    return [Hook(training.eval_every, evaluate), Hook(training.grid_every, draw)]


def release(
    config: RunConfig,
    autoencoder: Autoencoder,
    params: Any,
    sets: dict[str, Pictures],
    folder: Path,
) -> None:
    """Write RUN/vqgan, and judge what was written: float16 weights, every held-out picture and
    some of the training pictures."""
    out = folder / "vqgan"
    pretrained.save(out, config.model, params)
    _, params = pretrained.load(out)
    reconstruct = make_reconstruction(autoencoder)
    judged = {**sets, TRAIN: spread([sets[TRAIN]], JUDGED)}
    figures = make_figures(reconstruct, judged, config.model.codebook_size)(params)
    model_card.write(out, folder, config.model, figures, {k: len(v) for k, v in judged.items()})
    print(f"{out}: PSNR {figures['eval/all/psnr']:.2f} dB, SSIM {figures['eval/all/ssim']:.4f}")


if __name__ == "__main__":
    run(main, RunConfig, prog="python -m vqgan.train", about=__doc__ or "")
