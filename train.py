"""Train the text-to-image transformer on token records: compose the parts and run the loop.

python train.py --config presets/quickstart.yaml --output_dir=runs/mine
"""

import runtime

runtime.prepare()

from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp

from config import Config, from_yaml, run, to_tree, to_yaml
from data.batches import eval_batches, open_batches
from data.grids import picture_grid
from data.records import Records, open_records
from data.text import open_tokenizer
from drawing import make_drawer, picture_seed
from model import transformer
from model.config import ModelConfig
from model.loss import make_eval_loss, make_loss
from model.transformer import Transformer
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from training import parallel, runs
from training.checkpoint import Checkpoints
from training.hooks import make_evaluation
from training.loop import Hook, StopSignal, fit
from training.state import TrainState
from training.step import Step, make_train_step
from training.trackers import Tracker

ABOUT = "Train the text-to-image transformer on token records."


def main(config: Config) -> None:
    """One run, new or resumed."""
    training = config.training
    devices = parallel.start(config.parallel)
    parallel.check_batch(training.batch_size, devices, training.accumulation_steps)
    records = open_records(config.data.records)
    check_sizes(config.model, records)
    folder = Path(config.output_dir) if config.output_dir else runs.new_folder(config.name)
    is_old = runs.open_folder(folder, to_tree(config), lambda p: to_tree(from_yaml(Config, p)))

    model = transformer.build(config.model, training.compute_dtype)
    optimizer = make_optimizer(config.optim)
    state = jax.jit(
        partial(TrainState.create, model.init, optimizer, config.seed, training.compute_dtype)
    )()
    about = {"records": records.digest}
    with (
        StopSignal() as stop,
        Checkpoints(folder / "checkpoints", config.checkpoint) as checkpoints,
    ):
        state = checkpoints.resume(state, about) if is_old else state
        start = int(state.step)
        if start >= training.steps:
            print(f"{folder} is finished at step {start}; a larger --training.steps trains on")
            return
        runs.write_start(folder, to_yaml(config), devices.describe())
        runs.copy_once(records.tokenizer_folder, folder / "tokenizer")
        runs.copy_once(records.vqgan_folder, folder / "vqgan")
        batches = open_batches(records, "train", training.batch_size, config.seed)
        count = transformer.count_params(config.model)
        pictures = len(batches.rows)
        print(f"{folder}: {count:,} parameters on {devices.describe()}, {pictures:,} pictures")

        tracker = Tracker(config.tracker, training, folder, start, to_tree(config))
        with tracker:

            def save(step: int, state: TrainState) -> None:
                tracker.sync()
                checkpoints.save(state, about)

            state = fit(
                parallel.compile_step(make_step(config, model, records), devices),
                parallel.replicate(state, devices),
                batches.at,
                training.steps,
                record=tracker.record,
                hooks=make_hooks(config, model, records, folder, tracker),
                save=Hook(config.checkpoint.every, save),
                stop=stop,
            )
    done = int(state.step)
    rest = "" if done == training.steps else "; the same command goes on from here"
    print(f"{folder}: step {done} of {training.steps}{rest}")


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


def make_step(config: Config, model: Transformer, records: Records) -> Step:
    """The update of this configuration."""
    training = config.training
    tokenizer = open_tokenizer(records.tokenizer_folder)
    empty_tokens, empty_mask, _ = tokenizer.encode([""], config.model.text_length)
    empty_text = jnp.asarray(empty_tokens), jnp.asarray(empty_mask)
    loss = make_loss(
        model, empty_text, records.codebook_size, training.caption_dropout, training.token_noise
    )
    return make_train_step(
        loss,
        make_optimizer(config.optim),
        make_schedule(config.optim, training.steps),
        training.accumulation_steps,
        parallel.mean_over_devices,
    )


def make_hooks(
    config: Config, model: Transformer, records: Records, folder: Path, tracker: Tracker
) -> list[Hook]:
    """Evaluation of the loss on every held-out split, and pictures of the fixed prompts."""
    training = config.training
    held_out = [name for name in records.split_names if name not in ("train", "gallery")]
    few = -(-training.eval_examples // training.batch_size)
    sets = {
        name: lambda name=name: islice(eval_batches(records, name, training.batch_size), few)
        for name in held_out
    }
    evaluation = make_evaluation(make_eval_loss(model), sets)
    return [Hook(training.eval_every, evaluation), make_grids(config, model, folder, tracker)]


def make_grids(config: Config, model: Transformer, folder: Path, tracker: Tracker) -> Hook:
    """Draws the fixed prompts into RUN/grids, always from the same seeds."""
    prompts = list(config.training.grid_prompts)
    drawer = make_drawer(model, config.sampling, folder, batch_size=max(len(prompts), 1))
    seeds = [picture_seed(config.seed, prompt, 0) for prompt in prompts]

    def draw(step: int, state: TrainState) -> None:
        if prompts:
            path = folder / "grids" / f"step-{step:06}.png"
            path.parent.mkdir(exist_ok=True)
            params = parallel.on_first_device(state.params)
            picture_grid(prompts, drawer.draw(params, prompts, seeds)[:, None]).save(path)
            tracker.image(step, "grid", path)

    return Hook(config.training.grid_every, draw)


if __name__ == "__main__":
    run(main, Config, prog="train.py", about=ABOUT)
