"""The recipe of python -m vqgan.train: trains a VQGAN on pictures."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from common.batch import PictureBatch
from common.pixels import to_floats
from common.split_names import TRAIN
from data.order import order
from data.pictures.reading import write_bad_samples
from optim import averaging
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from training.devices import placing
from training.devices.batching import BatchPlan, in_updates, make_plan
from training.devices.devices import Devices
from training.loop import Between, Hook
from training.recipe import BatchAt, Recipe, Run
from training.reports.flops import count_flops
from training.reports.metrics import Costs, peak_flops
from training.update.players import Player
from training.update.state import TrainState
from vqgan import adversarial, discriminator, model_card, pretrained
from vqgan.autoencoder import Autoencoder, build
from vqgan.config import VQGANConfig
from vqgan.encoder import PER_DEVICE, make_encoder
from vqgan.finetuning import fit, keeps_codebook
from vqgan.layers import Params
from vqgan.objective import make_forward, make_loss
from vqgan.pictures import FoundTokens, Pictures, PictureStream, evenly_spaced
from vqgan.reconstructions import make_figures, make_reconstruction, write_grid
from vqgan.releasing import release
from vqgan.renewal import make_renewals
from vqgan.run_config import VQGANRunConfig
from vqgan.sets import read_sets

GRID_PICTURES = 64
JUDGED = 4000
"""Most training pictures that the model card's figures are measured on."""
RENEWED_UNTIL = 0.9
"""Share of the updates after which no code is replaced any more."""
Fixed = tuple[VQGANConfig, Params]
"""The VQGAN of init_from, opened once, if its tokens are fixed (quantizer.fixed)."""


def make_recipe(config: VQGANRunConfig) -> Recipe[PictureBatch]:
    """The recipe of a configuration; reads all pictures. Raises ValueError if there are none."""
    sets, skipped = read_sets(config.data, config.model.image_size)
    config = in_updates(config, len(sets[TRAIN]))
    autoencoder = build(config.model)
    stream = PictureStream(sets[TRAIN], order, config.seed)
    players: dict[str, Player] = {}
    opponent = None
    if config.loss.adversarial:
        opponent = adversarial.Opponent(autoencoder, config.loss, config.discriminator)
        players[adversarial.NAME] = make_discriminator(config, autoencoder)
    loss = make_loss(autoencoder, config.loss, first_quantized(config), opponent)
    fixed = pretrained.load(config.init_from) if config.quantizer.fixed else None
    return Recipe(
        init=autoencoder.init,
        loss=loss,
        players=players,
        open_batches=partial(open_batches, config, stream, fixed),
        batch_shapes=partial(batch_shapes, config),
        depends_on=digests(sets[TRAIN], fixed),
        splits=[*sets, "all"],
        examples=len(sets[TRAIN]),
        summary=summarise(config, sets),
        prepare=partial(prepare, skipped),
        hooks=partial(make_hooks, config, autoencoder, sets),
        between=make_between(config, autoencoder, stream),
        costs=partial(count_costs, autoencoder),
        start_from=partial(start_from, config.model, fixed),
        finish=partial(finish, autoencoder, sets),
    )


def card_of(run: Run) -> Path:
    """The model card of the run's release, which is written at its end."""
    return run.folder / "vqgan" / model_card.FILE


def prepare(skipped: Sequence[tuple[str, str]], run: Run) -> None:
    """Write the names of skipped pictures, with the reasons."""
    card_of(run).unlink(missing_ok=True)  # the release of an earlier end is out of date
    write_bad_samples(run.folder / "bad_samples.jsonl", skipped)


def finish(
    autoencoder: Autoencoder, sets: Mapping[str, Pictures], run: Run, state: TrainState
) -> None:
    """Write the release of a finished run, once."""
    if card_of(run).is_file():
        return
    params = placing.on_first_device(state.weights)
    if run.devices.is_first:
        judged = {**sets, TRAIN: evenly_spaced([sets[TRAIN]], JUDGED)}
        release(autoencoder.config, autoencoder, params, judged, run.folder)


def digests(pictures: Pictures, fixed: Fixed | None) -> dict[str, str]:
    """Hashes of the training pictures and, if the tokens are fixed, of the weights that find
    them."""
    digests = {"pictures": _digest([pictures])}
    if fixed:
        digests["init_from"] = _digest(jax.tree.leaves(fixed[1]))
    return digests


def _digest(arrays: Sequence[np.ndarray]) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for array in arrays:
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def summarise(config: VQGANRunConfig, sets: Mapping[str, Pictures]) -> str:
    """The numbers of pictures, and what the first updates do without."""
    counts = ", ".join(f"{len(pictures):,} {name}" for name, pictures in sets.items())
    if config.quantizer.fixed:
        return f"{counts}; the tokens of {config.init_from} are fixed, each found when first read"
    if begin := first_quantized(config):
        return f"{counts}; nothing is quantised before update {begin:,}"
    return counts


def first_quantized(config: VQGANRunConfig) -> int:
    """Number of updates before the codebook is used; 0 for a grid (model.lookup fsq)."""
    is_grid = config.model.lookup == "fsq"
    return 0 if is_grid else config.quantizer.warmup(config.training.steps)


def make_discriminator(config: VQGANRunConfig, autoencoder: Autoencoder) -> Player:
    """The discriminator as a player, with its own Adam and the schedule of `optim`."""
    settings, optim = config.discriminator, discriminator_optim(config)
    forward = make_forward(autoencoder, first_quantized(config))

    def reconstruct(params: Params, pixels: jax.Array, context: adversarial.Context) -> jax.Array:
        return forward(params, pixels, context.step).reconstruction

    examples_at = make_plan(config.training).examples
    return Player(
        init=partial(discriminator.init, settings),
        loss=adversarial.make_discriminator_loss(settings, reconstruct, to_floats),
        optimizer=make_optimizer(optim),
        schedule=make_schedule(optim, config.training.steps, examples_at),
        first_step=config.loss.adversarial_from,
    )


def discriminator_optim(config: VQGANRunConfig) -> OptimConfig:
    """The schedule of `optim` with the discriminator's learning rate and betas, for plain Adam on
    all of its parameters."""
    return replace(
        config.optim,
        name="adam",
        learning_rate=config.discriminator.learning_rate,
        beta1=config.discriminator.beta1,
        beta2=config.discriminator.beta2,
        weight_decay=0.0,
        ema_decay=0.0,
        nesterov=False,
        independent_decay=False,
        freeze=(),
        train_only=(),
        rates=(),
    )


def open_batches(
    config: VQGANRunConfig,
    stream: PictureStream,
    fixed: Fixed | None,
    plan: BatchPlan,
    devices: Devices,
) -> BatchAt[PictureBatch]:
    """A function n → this process's rows of the batch of update n + 1. They have image tokens if
    these are fixed."""
    shift = config.training.shift
    tokens = find_tokens(config, stream.pictures, fixed) if fixed else None

    def batch_at(n: int) -> PictureBatch[np.ndarray]:
        start, stop = plan.examples(n), plan.examples(n + 1)
        indices = stream.next_indices(start, stop - start)
        rows = devices.rows(stop - start)
        batch = jax.tree.map(lambda x: x[rows], stream.batch(n, indices, shift))
        if tokens:
            batch["image_tokens"] = tokens.of(indices[rows])
        return batch

    return batch_at


def find_tokens(config: VQGANRunConfig, pictures: Pictures, fixed: Fixed) -> FoundTokens:
    """The tokens of the pictures, by the VQGAN of init_from, as data.encode finds them."""
    tokenizer, params = fixed
    model = config.model
    tokenizer = replace(tokenizer, image_size=model.image_size, tried_codes=model.tried_codes)
    size = min(config.training.batch_size, PER_DEVICE)
    encoder = make_encoder(tokenizer, params, most_devices=1, per_device=size)
    return FoundTokens(
        pictures,
        tokenizer.image_length,
        lambda pictures: encoder.encode(to_floats(pictures)),
        encoder.batch_size,
    )


def batch_shapes(config: VQGANRunConfig, size: int) -> PictureBatch[jax.ShapeDtypeStruct]:
    """The shapes of a batch of `size` pictures; no memory is allocated."""
    model = config.model
    pixels = (size, model.image_size, model.image_size, 3)
    shapes: PictureBatch[jax.ShapeDtypeStruct] = {
        "pixels": jax.ShapeDtypeStruct(pixels, jnp.uint8),
        "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    if config.quantizer.fixed:
        shapes["image_tokens"] = jax.ShapeDtypeStruct((size, model.image_length), jnp.int32)
    return shapes


def count_costs(autoencoder: Autoencoder, devices: Devices) -> Costs:
    """Tokens and FLOPs of a picture in training. The backward pass counts as two forward passes."""
    config = autoencoder.config
    pixels = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    params = jax.eval_shape(autoencoder.init, jax.random.key(0))

    def reconstruct(params: Params, x: jax.Array) -> jax.Array:
        return autoencoder.decode_latents(params, autoencoder.latents(params, x))

    peak = sum(peak_flops(device.device_kind) for device in devices.devices)
    return Costs(config.image_length, 3.0 * count_flops(reconstruct, params, pixels), peak)


def start_from(
    model: VQGANConfig, fixed: Fixed | None, path: str, fresh: Params
) -> tuple[Params, list[str]]:
    """(the weights of --init_from, lines for the logbook). Raises ValueError for another layout."""
    return fit(path, model, jax.tree.map(np.asarray, placing.on_first_device(fresh)), fixed)


def make_between(
    config: VQGANRunConfig, autoencoder: Autoencoder, stream: PictureStream
) -> Between:
    """A function (n, state) → the state with a renewed codebook: by k-means when the warm-up ends,
    and with unused codes replaced at intervals after it. It reads the next pictures of the stream,
    so a resumed run does the same."""
    settings, examples_at = config.quantizer, make_plan(config.training).examples
    warmup = first_quantized(config)
    if config.model.lookup == "fsq" or settings.fixed:
        return lambda n, state: state
    by_kmeans, of_unused = make_renewals(autoencoder)
    every, end = settings.refresh_every, RENEWED_UNTIL * config.training.steps

    def renew(n: int, state: TrainState) -> TrainState:
        since = n - warmup
        is_start = since == 0 and not keeps_codebook(config.init_from, config.model, warmup)
        is_due = every > 0 and since > 0 and since % every == 0 and n < end
        if not (is_start or is_due):
            return state
        pictures = stream.next_pictures(examples_at(n), settings.refresh_pictures)
        key = jax.random.fold_in(jax.random.key(config.seed), n)
        codebook = (by_kmeans if is_start else of_unused)(state.params, pictures, key)
        return with_codebook(state, codebook)

    return renew


def with_codebook(state: TrainState, codebook: jax.Array) -> TrainState:
    """The state with this codebook in the parameters and in each copy of them. A copy has memory of
    its own, because an update reuses (donates) the memory of the state."""
    new = {"codebook": jax.device_put(codebook, state.params["codebook"].sharding)}
    ema = None if state.ema is None else {**state.ema, **jax.tree.map(jnp.copy, new)}
    opt_state = averaging.replaced(state.opt_state, new)
    return state._replace(params={**state.params, **new}, opt_state=opt_state, ema=ema)


def make_hooks(
    config: VQGANRunConfig, autoencoder: Autoencoder, sets: Mapping[str, Pictures], run: Run
) -> Sequence[Hook]:
    """Hooks that evaluate every split, and draw a grid of held-out pictures with their
    reconstructions. Before the codebook is used, neither quantises, as in training."""
    training = config.training
    begin = first_quantized(config)
    quantized, smooth = make_reconstruction(autoencoder), make_reconstruction(autoencoder, False)
    some = {name: evenly_spaced([p], training.eval_examples) for name, p in sets.items()}
    codes = config.model.codebook_size
    figures, before = (make_figures(kind, some, codes) for kind in (quantized, smooth))
    held_out = [p for name, p in sets.items() if name != TRAIN] or [sets[TRAIN]]
    shown = evenly_spaced(held_out, GRID_PICTURES)

    def evaluate(step: int, state: TrainState) -> Mapping[str, float]:
        return (figures if step > begin else before)(placing.on_first_device(state.weights))

    def draw(step: int, state: TrainState) -> Mapping[str, Path]:
        path = run.folder / "grids" / f"{step:06d}.png"
        params = placing.on_first_device(state.weights)
        if run.devices.is_first:
            write_grid(path, quantized if step > begin else smooth, params, shown)
        return {"reconstructions": path}

    return [Hook(training.eval_every, evaluate), Hook(config.grids.every, draw)]
