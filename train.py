"""Train the text-to-image transformer on token records: compose the parts and run the loop.

python train.py --config presets/quickstart.yaml --output_dir=runs/mine
"""

import runtime

runtime.prepare()

from training import signals

if __name__ == "__main__":
    signals.leave_early()

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from config import Config, check_clock, from_yaml, run, to_tree, to_yaml
from data.batches import eval_batches, open_batches
from data.grids import picture_grid, save_png
from data.records import Records, open_records
from data.text import open_tokenizer
from drawing import make_drawer, open_checkpoint, picture_seed
from model import transformer
from model.config import ModelConfig
from model.loss import make_eval_loss, make_loss
from model.transformer import Transformer
from optim.ema import init_ema, make_ema
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule, make_warm_up
from training import agreement, fitting, parallel, processes, runs
from training.batching import make_plan, micro_batch_size
from training.branching import branch
from training.finetuning import fit_params
from training.flops import count_flops
from training.hooks import evaluate_loss
from training.loop import Hook
from training.metrics import Costs, peak_flops
from training.parallel import Devices
from training.saving import check_keep_best
from training.session import Prepare, Work, run_training
from training.spikes import init_guard
from training.state import TrainState
from training.step import Step, make_train_step
from training.trackers import Tracker

GRID_CAPTIONS = 6
# Settings of the model that weights to start from may have been trained without.
FREE_IN_TUNING = {
    *("text_vocab_size", "text_length", "image_vocab_size", "grid_size", "grid_rows"),
    *("decoder_start_token_id", "init", "init_std", "remat", "unroll"),
    *("dropout", "attention_dropout", "activation_dropout"),
}
ABOUT = "Train the text-to-image transformer on token records."


def main(config: Config) -> None:
    """One run, new or resumed."""
    training = config.training
    check_clock(config)
    processes.join(config.parallel)
    devices = parallel.start(config.parallel)
    agreement.check_start(config)
    if training.micro_batch_size != "auto":
        micro_batch_size(training, devices)
    records = agreement.together(lambda: open_records(config.data.records))
    check_sizes(config.model, records)
    check_keep_best(config.checkpoint, records.held_out_splits)
    folder, changes = processes.from_first(lambda: open_folder(config))
    folder = Path(folder)

    plan = make_plan(training)
    model = transformer.build(config.model, training.compute_dtype)
    create = make_state(config, model)
    size = choose_micro_batch(config, model, records, devices)

    def begin(tracker: Tracker) -> Work:
        if devices.is_first:
            runs.copy_once(records.tokenizer_folder, folder / "tokenizer")
            runs.copy_once(records.vqgan_folder, folder / "vqgan")
        batches = open_batches(records, "train", plan.examples, config.seed, share=devices.rows)
        count, pictures = transformer.count_params(config.model), len(batches.rows)
        print(f"{folder}: {count:,} parameters on {devices.describe()}, {pictures:,} pictures")
        hooks = [
            Hook(training.eval_every, make_evaluation(config, model, records, devices, size)),
            Hook(training.grid_every, make_grids(config, model, records, folder, tracker, devices)),
        ]
        step = make_step(config, model, records, devices, size)
        return Work(step, batches.at, hooks, settings=training)

    about = {"records": records.digest}
    run_training(
        folder,
        config,
        to_yaml(config),
        devices,
        create,
        about,
        begin,
        changes,
        count_costs(model, config.model, devices),
        prepare=make_prepare(config, devices, folder, about),
        plan=plan,
    )


def open_folder(config: Config) -> tuple[str, runs.Changes | None]:
    """The run's folder, made or seen to be one that may be resumed, and what has changed since."""
    folder = Path(config.output_dir) if config.output_dir else runs.new_folder(config.name)
    return str(folder), runs.open_folder(folder, to_tree(config), load_settings)


def load_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's config.yaml."""
    return to_tree(from_yaml(Config, path))


def make_prepare(
    config: Config, devices: Devices, folder: Path, about: dict[str, Any]
) -> Prepare | None:
    """What a fresh state starts from. Raises ValueError for two things at once."""
    if config.init_from and config.branch_from:
        raise ValueError("init_from starts a fresh optimizer, branch_from goes on; give one")
    if config.init_from:
        return partial(start_from, config, devices)
    if config.branch_from:
        return partial(
            *(branch, config.branch_from, folder, to_tree(config), load_settings, about, devices)
        )
    return None


def count_costs(model: Transformer, sizes: ModelConfig, devices: Devices) -> Costs:
    """What an example costs in training: its backward pass is twice its forward pass, whatever is
    computed again to save memory."""
    text = jax.ShapeDtypeStruct((1, sizes.text_length), jnp.int32)
    mask = jax.ShapeDtypeStruct(text.shape, bool)
    image = jax.ShapeDtypeStruct((1, sizes.image_length), jnp.int32)
    flops = 3.0 * count_flops(model.apply, model.shapes, text, mask, image)
    peak = sum(peak_flops(device.device_kind) for device in devices.devices)
    return Costs(sizes.image_length, flops, peak)


def start_from(config: Config, devices: Devices, state: TrainState) -> tuple[TrainState, list[str]]:
    """A fresh state with the weights of `init_from`, and what there is to say about it.

    Raises:
        ValueError: naming settings or arrays that do not fit.
    """
    found, model = open_checkpoint(config.init_from), config.model
    old, new = to_tree(found.model), to_tree(model)
    differing = runs.differences(
        {k: v for k, v in old.items() if k not in FREE_IN_TUNING},
        {k: v for k, v in new.items() if k not in FREE_IN_TUNING},
    )
    if differing:
        named = {f"model.{name}": values for name, values in differing.items()}
        raise ValueError(f"init_from {config.init_from} is another model: {runs.describe(named)}")
    moved = (found.model.start_token, model.start_token)
    rows = {"image_embedding/tokens": moved} if moved[0] != moved[1] else {}
    fetch = lambda leaf: np.asarray(parallel.on_first_device(leaf))  # noqa: E731
    params, lines = fit_params(found.params, state.params, rows, fetch)
    params = parallel.place(params, devices)
    ema = None if state.ema is None else jax.jit(init_ema)(params)
    step = "" if found.step is None else f" at step {found.step}"
    state = state._replace(params=params, ema=ema)
    return state, [f"weights of {config.init_from}{step}", *lines]


def check_sizes(model: ModelConfig, records: Records) -> None:
    """Raises ValueError when the records hold tokens that the model has no place for."""
    for name, wanted, fits in (
        ("grid_size", records.grid_size, model.grid_size == records.grid_size),
        ("text_length", records.text_length, model.text_length == records.text_length),
        (
            "image_vocab_size",
            records.codebook_size,
            model.image_vocab_size >= records.codebook_size,
        ),
        (
            "text_vocab_size",
            records.text_vocab_size,
            model.text_vocab_size >= records.text_vocab_size,
        ),
    ):
        if not fits:
            raise ValueError(
                f"model.{name} {getattr(model, name)} does not fit the records "
                f"{records.folder}; use --model.{name}={wanted}"
            )


def make_state(config: Config, model: Transformer) -> Callable[[], TrainState]:
    """Makes the state before the first update."""
    return partial(
        TrainState.create,
        model.init,
        make_optimizer(config.optim),
        config.seed,
        config.training.compute_dtype,
        param_dtype=config.training.param_dtype,
        init_ema=init_ema if config.optim.ema_decay else None,
        guard=init_guard(config.training),
    )


def batch_shapes(model: ModelConfig, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A whole batch, without its memory."""
    text, image = (size, model.text_length), (size, model.image_length)
    return {
        "text_tokens": jax.ShapeDtypeStruct(text, jnp.int32),
        "text_mask": jax.ShapeDtypeStruct(text, jnp.bool_),
        "image_tokens": jax.ShapeDtypeStruct(image, jnp.int32),
        "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
    }


def choose_micro_batch(
    config: Config, model: Transformer, records: Records, devices: Devices
) -> int:
    """Examples a device holds at a time: by the configuration, or as many as fit."""
    if config.training.micro_batch_size != "auto":
        return micro_batch_size(config.training, devices)
    return fitting.find_micro_batch(
        make_plan(config.training),
        devices,
        partial(make_step, config, model, records, devices),
        make_state(config, model),
        partial(batch_shapes, config.model),
    )


def make_step(
    config: Config, model: Transformer, records: Records, devices: Devices, size: int
) -> Step:
    """The update of this configuration on these records, of `size` examples a device at a time."""
    tokenizer = open_tokenizer(records.tokenizer_folder)
    empty_tokens, empty_mask, _ = tokenizer.encode([""], config.model.text_length)
    empty_text = jnp.asarray(empty_tokens), jnp.asarray(empty_mask)
    return compose_step(config, model, empty_text, records.codebook_size, devices, size)


def compose_step(
    config: Config,
    model: Transformer,
    empty_text: tuple[Array, Array],
    codebook_size: int,
    devices: Devices,
    size: int | None = None,
) -> Step:
    """The update; `empty_text` is an empty caption's tokens and mask, `size` how many examples a
    device holds at a time, None: as configured."""
    training = config.training
    size = size or micro_batch_size(training, devices)
    loss = make_loss(
        model,
        empty_text,
        codebook_size,
        training.caption_dropout,
        training.token_noise,
        training.label_smoothing,
        training.z_loss,
    )
    examples_at = make_plan(training).examples
    return make_train_step(
        parallel.gather_before(loss, devices),
        make_optimizer(config.optim, parallel.spread(devices)),
        make_schedule(config.optim, training.steps, examples_at),
        parallel.count_micro_batches(devices, size),
        parallel.mean_over(devices),
        settings=training,
        is_warm=make_warm_up(config.optim, examples_at),
        update_ema=make_ema(config.optim.ema_decay),
    )


def make_evaluation(
    config: Config, model: Transformer, records: Records, devices: Devices, size: int
) -> Callable[[int, TrainState], dict[str, float]]:
    """The loss on every held-out split, of at most `size` examples at a time on a device."""
    most = max(config.training.eval_examples, 1)
    size = devices.num_shares * min(size, -(-most // devices.num_shares))
    sets = {
        name: partial(eval_batches, records, name, size, most=most, share=devices.rows)
        for name in records.held_out_splits
    }
    return evaluate_loss(parallel.compile_sums(make_eval_loss(model), devices), sets)


def make_grids(
    config: Config,
    model: Transformer,
    records: Records,
    folder: Path,
    tracker: Tracker,
    devices: Devices,
) -> Callable[[int, TrainState], None]:
    """Draws the fixed prompts into RUN/grids, always from the same seeds; on process 0, to which
    the others give their parts of the weights. Draws nothing where a device cannot hold them."""
    if not have_room_to_draw(config, model, devices):
        return lambda step, state: None
    if not devices.is_first:
        return lambda step, state: parallel.on_first_device(state.weights) and None
    prompts = list(config.training.grid_prompts) or records.some_captions(GRID_CAPTIONS)
    drawer = make_drawer(model, config.sampling, folder, rows_per_call=len(prompts))
    seeds = [picture_seed(config.seed, prompt, 0) for prompt in prompts]

    def draw(step: int, state: TrainState) -> None:
        path = folder / "grids" / f"step-{step:06}.png"
        params = parallel.on_first_device(state.weights)
        try:
            pictures = drawer.draw(params, prompts, seeds)[:, None]
            save_png(path, picture_grid(prompts, pictures), {"prompts": prompts})
        except (ValueError, OSError) as error:  # NaN, memory, a full disk: training goes on
            print(f"no grid at step {step}: {error}", flush=True)
            return
        tracker.image(step, "grid", path)

    return draw


def have_room_to_draw(config: Config, model: Transformer, devices: Devices) -> bool:
    """Whether a device can hold the whole weights, and once more as decoding reads them, beside its
    part of a state that is cut; says so where it cannot. The same on every process."""
    if devices.fsdp * devices.tensor == 1:
        return True
    width = jnp.dtype(config.training.compute_dtype).itemsize
    need = transformer.count_params(config.model) * (4 + width)
    need += fitting.bytes_on_device(parallel.shapes(make_state(config, model), devices))
    room = processes.from_first(lambda: fitting.device_memory(devices))
    if need > room:
        print(
            f"no picture grids: whole weights beside a part of the state take {need / 1e9:.3f} "
            f"GB of a device's {room / 1e9:.3f} GB; draw with generate.py where there is room",
            flush=True,
        )
    return need <= room


if __name__ == "__main__":
    run(main, Config, prog="train.py", about=ABOUT)
