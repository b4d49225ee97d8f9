"""The recipe of train.py: trains the text-to-image transformer on token records."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from common.batch import TokenBatch
from common.files import write_text
from common.settings import to_tree
from config import Config
from data import captions
from data.batches import eval_batches
from data.config import DataConfig
from data.mixture import check_alike, first_folder, open_sets, open_training
from data.records import Records, compare_splits, open_records, open_whole
from drawing.choosing import choose_sampling, is_sampling_chosen
from drawing.opening import open_checkpoint, parts_of
from drawing.run_grids import have_room_to_draw, make_grids
from model import statistics
from model.attention import grid
from model.config import ModelConfig
from model.loss import make_eval_loss, make_loss
from model.near_codes import soft_targets
from model.transformer import Params, Transformer
from optim.adapters import split
from starting import adapted
from starting.text_encoder import with_text_weights
from starting.translating import translate
from training.devices import over_rows, placing, processes
from training.devices.batching import BatchPlan
from training.devices.devices import Devices
from training.hooks import evaluate_loss
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

    def prepare(run: Run) -> None:
        captions.check_same_as_records(run.folder / "tokenizer", records.tokenizer_folder)
        keep_parts(records, run.folder)
        if sets.table:
            print("\n".join(sets.table), flush=True)
            write_text(run.folder / "filter.txt", "".join(f"{line}\n" for line in sets.table))

    def finish(run: Run, state: TrainState) -> None:
        step = int(state.step)
        if not (config.choose_sampling and have_room_to_draw(config, model, run.devices)):
            return
        if processes.from_process_0(lambda: is_sampling_chosen(run.folder, step)):
            return
        params = placing.on_first_device(state.weights)
        if run.devices.is_first:
            choose_sampling(config, model, records, run.folder, step, params)

    def batches(plan: BatchPlan, devices: Devices) -> BatchAt[TokenBatch]:
        return open_training(
            sets, plan.examples, config.seed, share=devices.rows, window=config.data.window
        ).at

    def hooks(run: Run) -> Sequence[Hook]:
        return [
            Hook(config.training.eval_every, make_evaluation(config, model, evaluated, run)),
            Hook(config.grids.every, make_grids(config, model, records, run)),
        ]

    return Recipe(
        init=model.init,
        loss=training_loss(config, model, records),
        open_batches=batches,
        batch_shapes=partial(batch_shapes, config.model),
        depends_on=sets.digests,
        rates=[("matrices", 1 / config.model.width_ratio)] if config.model.base_dim else (),
        model_statistics=partial(transformer_statistics, model),
        splits=list(evaluated),
        examples=sets.num_training,
        summary=f"{sets.num_training:,} pictures",
        prepare=prepare,
        hooks=hooks,
        costs=partial(count_costs, model, config.model),
        start_from=partial(start_from, config),
        start_fresh=partial(start_fresh, config),
        finish=finish,
    )


def training_loss(config: Config, model: Transformer, records: Records) -> Loss[TokenBatch]:
    """The loss of model/loss.py, with the empty caption and the codebook of the records."""
    tokenizer = captions.open_captions(records.tokenizer_folder)
    tokens, mask, _ = tokenizer.encode([""], config.model.text_length)
    empty_text = jnp.asarray(tokens), jnp.asarray(mask)
    share = config.loss.near_codes
    targets = None
    if share:
        targets = soft_targets(codebook(records.vqgan_folder), share, records.used_codes())
    return make_loss(model, empty_text, records.codebook_size, config.loss, targets)


def transformer_statistics(model: Transformer, update: Update) -> Mapping[str, jax.Array]:
    """The observable of the transformer: activations and entropies (model/statistics.py)."""
    assert update.recompute is not None
    return statistics.finish(
        update.recompute.mean_over_rows(partial(statistics.batch_statistics, model, update.params))
    )


def batch_shapes(model: ModelConfig, size: int) -> TokenBatch[jax.ShapeDtypeStruct]:
    """The shapes of a batch of `size` examples; no memory is allocated."""
    text, image = (size, model.text_length), (size, model.image_length)
    return {
        "text_tokens": jax.ShapeDtypeStruct(text, jnp.int32),
        "text_mask": jax.ShapeDtypeStruct(text, jnp.bool_),
        "image_tokens": jax.ShapeDtypeStruct(image, jnp.int32),
        "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
    }


def count_costs(model: Transformer, sizes: ModelConfig, devices: Devices) -> Costs:
    """Tokens and FLOPs of one training example, and the FLOP/s of the devices. The backward pass
    counts as two forward passes; recomputation (model.remat) does not count."""
    text = jax.ShapeDtypeStruct((1, sizes.text_length), jnp.int32)
    mask = jax.ShapeDtypeStruct(text.shape, bool)
    image = jax.ShapeDtypeStruct((1, sizes.image_length), jnp.int32)
    flops = 3.0 * count_flops(model.apply, model.shapes, text, mask, image)
    peak = sum(peak_flops(device.device_kind) for device in devices.devices)
    return Costs(sizes.image_length, flops, peak)


def check_sizes(model: ModelConfig, records: Records) -> None:
    """Raise ValueError if the model's sizes do not fit the records. The message names the flag to
    set."""
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


def start_from(config: Config, path: str, fresh: Params) -> tuple[Params, list[str]]:
    """(the weights of --init_from in the shapes of `fresh`, lines for the logbook). Raises
    ValueError naming the settings or the arrays that differ from this model's."""
    found, model = open_checkpoint(path), config.model
    old, new = to_tree(found.model), to_tree(model)
    differing = runs.differences(
        {k: v for k, v in old.items() if k not in FREE_IN_TUNING},
        {k: v for k, v in new.items() if k not in FREE_IN_TUNING},
    )
    if differing:
        named = {f"model.{name}": values for name, values in differing.items()}
        raise ValueError(f"init_from {path} is a different model: {runs.describe(named)}")
    moved = (found.model.start_token, model.start_token)
    rows = {"image_embedding/tokens": moved} if moved[0] != moved[1] else {}
    base, own = split(fresh)
    before, after = (grid(one, "decoder") for one in (found.model, model))
    theirs, lines = resize_grid(found.params, before, after, model.position_offset)
    params, more = fit_params(theirs, base, rows, fetched)
    parts = parts_of(found)
    normalizer = captions.DALLE_MINI if parts.normalize_text else captions.CLEAN
    records = first_folder(config.data.records)
    ours = Path(records) / "tokenizer"
    lines = [*captions.compare_tokenizers(parts.tokenizer, normalizer, ours, path), *lines, *more]
    lines += compare_splits(found.records, records, path)
    if parts.vqgan.is_dir():
        params, more = translate(params, found.params, model, parts.vqgan, open_records(records))
    else:
        more = [f"{path} has no VQGAN beside it: the records' VQGAN is assumed"]
    step = "" if found.step is None else f" at step {found.step}"
    return {**params, **own}, [f"weights of {path}{step}", *lines, *more]


def keep_parts(records: Records, run: Path) -> None:
    """Copy the records' tokenizer and VQGAN into the run's folder, with their checksums. At a
    resume, check them instead. Raises ValueError if a file was changed since it was copied."""
    runs.copy_once(records.tokenizer_folder, run / "tokenizer")
    runs.copy_once(records.vqgan_folder, run / "vqgan")
    if (run / SUMS_FILE).is_file():
        check_sums(run)
    else:
        write_sums(run, ("tokenizer", "vqgan"))


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


def start_fresh(config: Config, fresh: Params) -> tuple[Params, list[str]]:
    """(fresh parameters, with the weights of --text_encoder if it is given, lines for the
    logbook)."""
    return with_text_weights(config, fresh, fetched) if config.text_encoder else (fresh, [])


def fetched(leaf: jax.Array) -> np.ndarray:
    """The array as numpy; a sharded one is all-gathered."""
    return np.asarray(placing.on_first_device(leaf))


def make_evaluation(
    config: Config,
    model: Transformer,
    evaluated: Mapping[str, tuple[Records, str | None]],
    run: Run,
) -> Callable[[int, TrainState], Mapping[str, float]]:
    """An action for a hook: the loss on every set of `evaluation_sets`. A device gets at most a
    micro-batch at a time."""
    devices, most = run.devices, max(config.training.eval_examples, 1)
    size = devices.num_shares * min(run.micro_batch, -(-most // devices.num_shares))
    sets = {
        name: partial(eval_batches, *where, size, most=most, share=devices.rows)
        for name, where in evaluated.items()
    }
    compiled = shared.program(
        run.programs,
        "evaluation",
        config,
        lambda: over_rows.compile_sums(make_eval_loss(model), devices),
    )
    return evaluate_loss(compiled, sets)
