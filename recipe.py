"""The recipe of train.py: trains the text-to-image transformer on token records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from common.batch import HostBatch, TokenBatch
from common.files import write_text
from common.settings import to_tree
from config import Config
from data.batches import choice_batches, eval_batches
from data.config import DataConfig
from data.mixture import (
    RecordSets,
    check_alike,
    first_folder,
    folders_of,
    open_sets,
    open_training,
)
from data.records import Records, compare_splits, open_records, open_whole
from data.text import captions
from drawing.choosing import choose_sampling, is_sampling_chosen
from drawing.opening import Checkpoint, open_checkpoint, parts_of
from drawing.run_grids import have_room_to_draw, make_grids
from model import statistics
from model.attention import grid
from model.config import ModelConfig
from model.loss import make_choice_loss, make_eval_loss, make_loss
from model.near_codes import Targets, soft_targets
from model.transformer import Params, Transformer
from optim.adapters import split
from starting import adapted
from starting.text_encoder import with_text_weights
from starting.translating import translate
from training.devices import over_rows, placing, processes
from training.devices.batching import BatchPlan
from training.devices.devices import Devices
from training.hooks import EvalLoss, evaluate_loss
from training.loop import Hook
from training.recipe import BatchAt, Recipe, Run
from training.reports.flops import count_flops
from training.reports.metrics import Costs, peak_flops
from training.saved import runs
from training.saved.finetuning import fit_params, resize_grid
from training.update import shared
from training.update.loss import Loss
from training.update.observables import Update
from training.update.state import TrainState
from vqgan.pretrained import codebook
from weights.checksums import SUMS_FILE, check_sums, write_sums

FREE_IN_TUNING = {
    *("text_vocab_size", "text_length", "image_vocab_size", "grid_size", "grid_rows"),
    *("decoder_start_token_id", "init", "init_std", "remat", "unroll"),
    *("dropout", "attention_dropout", "activation_dropout"),
}
"""Settings of the model that may differ between this run and the weights in --init_from."""


def make_recipe(config: Config) -> Recipe[TokenBatch]:
    """The recipe of a configuration. Raises ValueError if the records do not fit the model.

    The functions in it run later: see docs/one_run.md for the order.
    """
    sets = open_sets(config.data.records, config.data.filter)
    records, evaluated = sets.first, evaluation_sets(config.data, sets.first)
    check_sizes(config.model, records)
    model = adapted.build(config.model, config.optim.adapters, config.training.compute_dtype)
    captions.check_unchanged(records.folder, records.about.get("text"), records.text_length)
    if config.output_dir:  # before anything is written into the folder
        captions.check_same_as_records(
            Path(config.output_dir, "tokenizer"), records.tokenizer_folder
        )
    return Recipe(
        init=model.init,
        loss=training_loss(config, model, sets),
        open_batches=partial(open_batches, config, sets),
        batch_shapes=partial(batch_shapes, config.model),
        depends_on=sets.digests,
        rates=[("matrices", 1 / config.model.width_ratio)] if config.model.base_dim else (),
        model_statistics=partial(transformer_statistics, model),
        splits=list(evaluated),
        examples=sets.num_training,
        summary=f"{sets.num_training:,} pictures",
        prepare=partial(prepare, sets),
        hooks=partial(make_hooks, config, model, records, evaluated),
        costs=partial(count_costs, model, config.model),
        start_from=partial(start_from, config),
        start_fresh=partial(start_fresh, config),
        finish=partial(finish, config, model, records),
    )


def evaluation_sets(data: DataConfig, records: Records) -> dict[str, tuple[Records, str | None]]:
    """Name → (records, split) of each evaluated set: the held-out splits, and the folder
    data.validation as a whole (split None). Raises ValueError if that folder has another tokenizer
    or VQGAN."""
    sets: dict[str, tuple[Records, str | None]] = {
        name: (records, name) for name in records.held_out_splits
    }
    if data.validation:
        other = open_whole(data.validation)
        check_alike(records, other)
        name = "validation" if "validation" not in sets else f"validation_{other.folder.name}"
        sets[name] = (other, None)
    return sets


def check_sizes(model: ModelConfig, records: Records) -> None:
    """Raise ValueError if the model's sizes do not fit the records. The message names the flag to
    set."""
    exactly = {"grid_size": records.grid_size, "text_length": records.text_length}
    at_least = {
        "image_vocab_size": records.codebook_size,
        "text_vocab_size": records.text_vocab_size,
    }
    for name, needed in {**exactly, **at_least}.items():
        size = getattr(model, name)
        if size < needed or (size > needed and name in exactly):
            raise ValueError(
                f"model.{name} {size} does not fit the records {records.folder}; use "
                f"--model.{name}={needed}"
            )


def training_loss(config: Config, model: Transformer, sets: RecordSets) -> Loss[TokenBatch]:
    """The loss of model/loss.py, with the empty caption and the codebook of the records."""
    records = sets.first
    tokenizer = captions.open_captions(records.tokenizer_folder)
    tokens, mask, _ = tokenizer.encode([""], config.model.text_length)
    empty_text = jnp.asarray(tokens), jnp.asarray(mask)
    share = config.loss.near_codes
    targets = near_targets(sets, share) if share else None
    return make_loss(model, empty_text, records.codebook_size, config.loss, targets)


def near_targets(sets: RecordSets, share: float) -> Targets:
    """The targets of loss.near_codes, among the codes that pictures of any folder have."""
    return soft_targets(codebook(sets.first.vqgan_folder), share, sets.used_codes())


def open_batches(
    config: Config, sets: RecordSets, plan: BatchPlan, devices: Devices
) -> BatchAt[TokenBatch]:
    """A function n → this process's rows of the batch of update n + 1."""
    window = config.data.window
    return open_training(sets, plan.examples, config.seed, share=devices.rows, window=window).at


def batch_shapes(model: ModelConfig, size: int) -> TokenBatch[jax.ShapeDtypeStruct]:
    """The shapes of a batch of `size` examples; no memory is allocated."""
    text, image = (size, model.text_length), (size, model.image_length)
    return {
        "text_tokens": jax.ShapeDtypeStruct(text, jnp.int32),
        "text_mask": jax.ShapeDtypeStruct(text, jnp.bool_),
        "image_tokens": jax.ShapeDtypeStruct(image, jnp.int32),
        "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
    }


def transformer_statistics(model: Transformer, update: Update) -> Mapping[str, jax.Array]:
    """The observable of the transformer: activations and entropies (model/statistics.py)."""
    assert update.recompute is not None
    return statistics.finish(
        update.recompute.mean_over_rows(partial(statistics.batch_statistics, model, update.params))
    )


def prepare(sets: RecordSets, run: Run) -> None:
    """Copy the tokenizer and the VQGAN of the records into the run's folder, and write the table
    of data.filter. Raises ValueError if the folder's own tokenizer or VQGAN differs."""
    records = sets.first
    captions.check_same_as_records(run.folder / "tokenizer", records.tokenizer_folder)
    keep_parts(records, run.folder)
    if sets.table:
        print("\n".join(sets.table), flush=True)
        write_text(run.folder / "filter.txt", "".join(f"{line}\n" for line in sets.table))


def keep_parts(records: Records, run: Path) -> None:
    """Copy the records' tokenizer and VQGAN into the run's folder, with their checksums. At a
    resume, check them instead. Raises ValueError if a file was changed since it was copied."""
    runs.copy_once(records.tokenizer_folder, run / "tokenizer")
    runs.copy_once(records.vqgan_folder, run / "vqgan")
    if (run / SUMS_FILE).is_file():
        check_sums(run)
    else:
        write_sums(run, ("tokenizer", "vqgan"))


def make_hooks(
    config: Config,
    model: Transformer,
    records: Records,
    evaluated: Mapping[str, tuple[Records, str | None]],
    run: Run,
) -> Sequence[Hook]:
    """Hooks that evaluate the sets of `evaluation_sets`, and draw a grid of pictures."""
    every, others = config.training.eval_every, config.training.eval_captions
    evaluation = partial(make_evaluation, config, evaluated, run)
    hooks = [Hook(every, evaluation(eval_batches, make_eval_loss(model)))]
    if others:
        batches = partial(choice_batches, others=others)
        hooks.append(Hook(every, evaluation(batches, make_choice_loss(model), "wrong_caption")))
    return [*hooks, Hook(config.grids.every, make_grids(config, model, records, run))]


def make_evaluation(
    config: Config,
    evaluated: Mapping[str, tuple[Records, str | None]],
    run: Run,
    batches: Callable[..., Iterable[HostBatch]],
    loss: EvalLoss,
    name: str = "loss",
) -> Callable[[int, TrainState], Mapping[str, float]]:
    """An action for a hook: the mean of `loss` over every set of `evaluation_sets`, as
    eval/SET/name. `batches` reads a set, as `eval_batches` does. A device gets at most a
    micro-batch at a time."""
    devices, most = run.devices, max(config.training.eval_examples, 1)
    size = devices.num_shares * min(run.micro_batch, -(-most // devices.num_shares))
    sets = {
        set_name: partial(batches, *where, size, most=most, share=devices.rows)
        for set_name, where in evaluated.items()
    }
    compiled = shared.program(
        run.programs,
        f"evaluation of {name}",
        config,
        lambda: over_rows.compile_sums(loss, devices),
    )
    return evaluate_loss(compiled, sets, name)


def count_costs(model: Transformer, sizes: ModelConfig, devices: Devices) -> Costs:
    """Tokens and FLOPs of one training example, and the FLOP/s of the devices. The backward pass
    counts as two forward passes; recomputation (model.remat) does not count."""
    text = jax.ShapeDtypeStruct((1, sizes.text_length), jnp.int32)
    mask = jax.ShapeDtypeStruct(text.shape, bool)
    image = jax.ShapeDtypeStruct((1, sizes.image_length), jnp.int32)
    flops = 3.0 * count_flops(model.apply, model.shapes, text, mask, image)
    peak = sum(peak_flops(device.device_kind) for device in devices.devices)
    return Costs(sizes.image_length, flops, peak)


def start_from(config: Config, path: str, fresh: Params) -> tuple[Params, list[str]]:
    """(the weights of --init_from in the shapes of `fresh`, lines for the logbook). Raises
    ValueError naming the settings or the arrays that differ from this model's."""
    source, records = open_checkpoint(path), first_folder(config.data.records)
    check_same_model(path, source.model, config.model)
    base, adapters = split(fresh)
    params, lines = fit_to_model(source, config.model, base)
    parts = parts_of(source)
    normalizer = captions.DALLE_MINI if parts.normalize_text else captions.CLEAN
    tokenizer = Path(records) / "tokenizer"
    lines = [*captions.compare_tokenizers(parts.tokenizer, normalizer, tokenizer, path), *lines]
    lines += compare_splits(source.records, records, path)
    if parts.vqgan.is_dir():
        opened = [open_records(folder) for folder in folders_of(config.data.records)]
        params, more = translate(params, source.params, config.model, parts.vqgan, opened)
    else:
        more = [f"{path} has no VQGAN beside it: the records' VQGAN is assumed"]
    step = "" if source.step is None else f" at step {source.step}"
    return {**params, **adapters}, [f"weights of {path}{step}", *lines, *more]


def check_same_model(path: str, old: ModelConfig, new: ModelConfig) -> None:
    """Raise ValueError if the model of --init_from has other settings, except FREE_IN_TUNING."""
    before, after = (
        {name: value for name, value in to_tree(model).items() if name not in FREE_IN_TUNING}
        for model in (old, new)
    )
    if differing := runs.differences(before, after):
        named = {f"model.{name}": values for name, values in differing.items()}
        raise ValueError(f"init_from {path} is a different model: {runs.describe(named)}")


def fit_to_model(source: Checkpoint, model: ModelConfig, fresh: Params) -> tuple[Params, list[str]]:
    """(the weights of `source` in the shapes of `fresh`, a line about each table of another size).
    Positions are interpolated to the model's grid, and the start token keeps its vector."""
    before, after = (grid(config, "decoder") for config in (source.model, model))
    params, resized = resize_grid(source.params, before, after, model.position_offset)
    start = (source.model.start_token, model.start_token)
    moved_rows = {"image_embedding/tokens": start} if start[0] != start[1] else {}
    params, refitted = fit_params(params, fresh, moved_rows, fetched)
    return params, [*resized, *refitted]


def fetched(leaf: jax.Array) -> np.ndarray:
    """The array as numpy; a sharded one is all-gathered."""
    return np.asarray(placing.on_first_device(leaf))


def start_fresh(config: Config, fresh: Params) -> tuple[Params, list[str]]:
    """(fresh parameters, with the weights of --text_encoder if it is given, lines for the
    logbook)."""
    return with_text_weights(config, fresh, fetched) if config.text_encoder else (fresh, [])


def finish(
    config: Config, model: Transformer, records: Records, run: Run, state: TrainState
) -> None:
    """Choose the sampling settings of a finished run, if config.choose_sampling says so, once."""
    step = int(state.step)
    if not (config.choose_sampling and have_room_to_draw(config, model, run.devices)):
        return
    if processes.from_process_0(lambda: is_sampling_chosen(run.folder, step)):
        return
    params = placing.on_first_device(state.weights)
    if run.devices.is_first:
        choose_sampling(config, model, records, run.folder, step, params)
