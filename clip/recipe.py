"""The recipe of python -m clip.train: trains a small CLIP on token records.

The pictures are reconstructions by the records' VQGAN, because drawn pictures come from it, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from clip import weights
from clip.contrast import MAX_SCALE, Contrast, contrast
from clip.towers import Clip, Network, Params
from clip.views import ViewConfig, random_views
from clip.weights import CLIP_FOLDER, PIXEL_STATISTICS, ClipConfig, TowerConfig
from common.batch import PairBatch, TokenBatch
from common.files import write_text
from common.filling import batches_of
from common.pixels import to_bytes, to_floats
from common.settings import check_float32, check_least, check_multiple
from common.split_names import TRAIN
from data.batches import eval_batches
from data.batches import open_batches as open_training
from data.records import Records, open_whole
from data.text.captions import open_captions
from training.config import CheckpointConfig, OnSpike, RunConfig, TrainingConfig
from training.devices import placing
from training.devices.batching import BatchPlan, micro_batch_size
from training.devices.devices import Devices, find_devices
from training.devices.fitting import GB, available_memory
from training.loop import Hook
from training.recipe import BatchAt, Recipe, Run
from training.update.loss import Loss, LossContext
from training.update.state import TrainState
from vqgan import autoencoder
from vqgan import pretrained as pretrained_vqgan

PICTURES_PER_CALL = 64
"""Pictures per call of the VQGAN."""


@dataclass(frozen=True)
class ClipSizes:
    """Two transformers of one size, and the space of features where they meet."""

    dim: int = 128
    """Width of both."""
    depth: int = 3
    """Layers of each."""
    num_heads: int = 4
    """Heads of each."""
    mlp_dim: int = 512
    """Hidden width of the feed-forwards."""
    feature_dim: int = 128
    """Size of the vector that represents a picture or a text."""
    patch_size: int = 8
    """Pixels along a side of a patch."""

    def __post_init__(self) -> None:
        check_least(self, "model", 1, "dim", "depth", "num_heads", "mlp_dim")
        check_least(self, "model", 1, "feature_dim", "patch_size")
        check_multiple("model.dim", self.dim, "model.num_heads", self.num_heads)


@dataclass(frozen=True)
class ClipData:
    """Token records, as `python -m data.encode` writes them."""

    records: str = "records/things"
    """Folder of token records: captions and pictures as tokens, their tokenizer and their VQGAN."""


@dataclass(frozen=True)
class ClipTraining(TrainingConfig):
    """Length, batch, precision and the intervals of periodic work."""

    steps: int = 2000
    """Optimizer updates in all; 0 = as training.epochs says."""
    batch_size: int = 64
    """Pairs per update, over all devices and micro-batches. A picture is compared with the captions
    of its micro-batch, so a small micro-batch is an easy task."""
    on_spike: OnSpike = "skip"
    """Reaction to a spike of the loss or of the gradient's norm: skip = skip this update; rollback
    = restore the newest regular checkpoint and skip the batches around the spike; off = none."""
    eval_every: int = 500
    """Updates between evaluations on every held-out split; 0 = only at the end."""
    eval_examples: int = 64
    """Pictures of each split in an evaluation, which are compared with one another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "training", 2, "batch_size", "eval_examples")


@dataclass(frozen=True)
class ClipRunConfig(RunConfig):
    """All settings of a CLIP's training run."""

    name: str = "clip"
    """Name of the run, in the default folder's name and in the tracker."""
    training: ClipTraining = field(default_factory=ClipTraining)
    """Length, batch, precision and intervals."""
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(every=500))
    """When checkpoints are written and which are kept."""
    model: ClipSizes = field(default_factory=ClipSizes)
    """The two towers."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """Random changes of the pictures in training."""
    data: ClipData = field(default_factory=ClipData)
    """The token records."""

    def __post_init__(self) -> None:
        if self.optim.adapters.rank:
            raise ValueError("optim.adapters are for train.py; here use --optim.train_only")
        super().__post_init__()
        check_float32(self.training, "python -m clip.train", "compute_dtype")


def make_recipe(config: ClipRunConfig) -> Recipe[PairBatch]:
    """The recipe of a configuration; reconstructs all pictures. Raises ValueError if they do not
    fit in memory, if patches do not fill a picture, or if a micro-batch is a single pair."""
    check_pairs(config)
    records = open_whole(config.data.records)
    pictures = reconstruct(records)
    sizes = clip_config(config.model, records, pictures.shape[1])
    # The image tokens are replaced by the pictures' numbers, to look pictures up by batch. Only the
    # plain view of each is reconstructed.
    numbered = replace(records, image_tokens=np.arange(len(records))[:, None], view_tokens=None)
    return Recipe(
        init=lambda key: nnx.to_pure_dict(nnx.state(Network(sizes, nnx.Rngs(key)))),
        loss=make_loss(sizes, config.views),
        open_batches=partial(open_batches, config, numbered, pictures),
        batch_shapes=partial(batch_shapes, sizes),
        depends_on={"records": records.digest},
        splits=records.held_out_splits,
        examples=len(records.rows(TRAIN)),
        summary=f"{len(records.rows(TRAIN)):,} pictures, {sizes.image_size} pixels along a side",
        hooks=partial(make_hooks, config, sizes, numbered, pictures),
        finish=partial(finish, sizes, records),
    )


def check_pairs(config: ClipRunConfig) -> None:
    """Raise ValueError if the pictures of a micro-batch have no other caption to be compared with:
    the loss would always be 0. A device of pmap compares its own pairs, a mesh all of them."""
    training, devices = config.training, find_devices(config.parallel)
    shares = devices.num_shares
    if training.micro_batch_size == "auto":
        pairs = training.batch_size // shares
    else:
        pairs = micro_batch_size(training, devices)
    if pairs * (shares if devices.mode == "mesh" else 1) < 2:
        raise ValueError(
            f"training.batch_size {training.batch_size} on {shares} device(s) is trained in "
            "micro-batches of 1 pair, so a picture is compared with its own caption only; take a "
            "larger batch_size, fewer accumulation_steps or devices, or a micro_batch_size above 1"
        )


def open_batches(
    config: ClipRunConfig,
    numbered: Records,
    pictures: np.ndarray,
    plan: BatchPlan,
    devices: Devices,
) -> BatchAt[PairBatch]:
    """A function n → this process's rows of the batch of update n + 1."""
    batches = open_training(numbered, TRAIN, plan.examples, config.seed, share=devices.rows)
    return lambda n: with_pixels(batches.at(n), pictures)


def make_hooks(
    config: ClipRunConfig, sizes: ClipConfig, numbered: Records, pictures: np.ndarray, run: Run
) -> Sequence[Hook]:
    """A hook that evaluates the first pictures of every held-out split."""
    sets = {}
    for name in numbered.held_out_splits:
        size = min(config.training.eval_examples, len(numbered.rows(name)))
        sets[name] = with_pixels(next(eval_batches(numbered, name, size)), pictures)

    def evaluate(step: int, state: TrainState) -> Mapping[str, float]:
        return judge(sizes, placing.on_first_device(state.weights), sets)

    return [Hook(config.training.eval_every, evaluate)]


def finish(sizes: ClipConfig, records: Records, run: Run, state: TrainState) -> None:
    """Write the CLIP into the run's folder, for --clip."""
    params = placing.on_first_device(state.weights)
    if run.devices.is_first:
        release(sizes, params, records.tokenizer_folder, run.folder / CLIP_FOLDER)


def clip_config(model: ClipSizes, records: Records, image_size: int) -> ClipConfig:
    """The configuration of a CLIP of these sizes for these records. Raises ValueError if the
    patches do not fill a picture."""
    if image_size % model.patch_size:
        raise ValueError(
            f"model.patch_size {model.patch_size} does not divide the records' {image_size} pixels;"
            f" try --model.patch_size={math.gcd(image_size, 8)}"
        )
    tower = TowerConfig(model.dim, model.depth, model.num_heads, model.mlp_dim, "quick_gelu", 1e-5)
    tokenizer = open_captions(records.tokenizer_folder)
    (frame,) = tokenizer.token_ids([""])
    return ClipConfig(
        text=tower,
        image=tower,
        feature_dim=model.feature_dim,
        text_vocab_size=records.text_vocab_size,
        text_length=records.text_length,
        end_id=tokenizer.end_id,
        image_size=image_size,
        patch_size=model.patch_size,
        pixel_mean=PIXEL_STATISTICS["image_mean"],
        pixel_std=PIXEL_STATISTICS["image_std"],
        has_start=len(frame) == 2,
    )


def reconstruct(records: Records) -> np.ndarray:
    """The reconstructions of all examples, as uint8 [n, y, x, 3]. Raises ValueError if they take
    more than half of this machine's memory."""
    config, params = pretrained_vqgan.load(records.vqgan_folder)
    model = autoencoder.build(config)
    need, room = 3 * len(records) * config.image_size**2, available_memory() // 2
    if need > room:
        raise ValueError(
            f"the {len(records):,} pictures of {records.folder} take {need / GB:.3g} GB of "
            f"{room / GB:.3g} GB; train on a part of them"
        )
    show = jax.jit(lambda params, tokens: to_bytes(model.decode(params, tokens)))
    reconstructions = [
        np.asarray(show(params, records.image_tokens[rows].astype(np.int32)))[:count]
        for rows, count in batches_of(min(PICTURES_PER_CALL, len(records)), len(records))
    ]
    return np.concatenate(reconstructions)


def with_pixels(
    batch: TokenBatch[np.ndarray], pictures: UInt8[np.ndarray, "n y x 3"]
) -> PairBatch[np.ndarray]:
    """The batch, with the pictures in place of their indices."""
    return {
        "pixels": pictures[batch["image_tokens"][:, 0]],
        "text_tokens": batch["text_tokens"],
        "text_mask": batch["text_mask"],
        "example_index": batch["example_index"],
    }


def batch_shapes(sizes: ClipConfig, size: int) -> PairBatch[jax.ShapeDtypeStruct]:
    """The shapes of a batch of `size` examples; no memory is allocated."""
    text, side = (size, sizes.text_length), sizes.image_size
    return {
        "pixels": jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8),
        "text_tokens": jax.ShapeDtypeStruct(text, jnp.int32),
        "text_mask": jax.ShapeDtypeStruct(text, jnp.bool_),
        "example_index": jax.ShapeDtypeStruct((size,), jnp.int32),
    }


def contrast_of(
    sizes: ClipConfig,
    params: Params,
    batch: PairBatch,
    pictures: Float[Array | np.ndarray, "b y x 3"],
) -> Contrast:
    """The loss and accuracy of pictures and the captions of a batch."""
    model = Clip(sizes, params)
    images = model.image_features(pictures)
    texts = model.text_features(batch["text_tokens"], batch["text_mask"])
    return contrast(images, texts, params["logit_scale"], jnp.asarray(batch["text_tokens"]))


def make_loss(sizes: ClipConfig, views: ViewConfig) -> Loss[PairBatch]:
    """The loss of a micro-batch, with its pictures augmented at random."""

    def loss(
        params: Params, batch: PairBatch[Array], keys: Key[Array, " b"], context: LossContext
    ) -> tuple[Array, dict]:
        pictures = random_views(views, keys, to_floats(batch["pixels"]))
        contrast = contrast_of(sizes, params, batch, pictures)
        return contrast.loss, {"train/right": contrast.right, "train/scale": contrast.scale}

    return loss


def judge(
    sizes: ClipConfig, params: Params, sets: Mapping[str, PairBatch[np.ndarray]]
) -> dict[str, float]:
    """eval/SPLIT/loss of each held-out set; eval/SPLIT/right, the share of pictures whose own
    caption scores highest in the set; and eval/SPLIT/chance, the same for guessing."""
    values = {}
    for name, batch in sets.items():
        contrast = contrast_of(sizes, params, batch, to_floats(batch["pixels"]))
        for figure in ("loss", "right", "chance"):
            values[f"eval/{name}/{figure}"] = float(getattr(contrast, figure))
    return values


def release(sizes: ClipConfig, params: Params, tokenizer: Path, folder: Path) -> None:
    """Write a folder for --clip: the weights in the format of transformers' CLIPModel, with the
    scale of training, and the tokenizer's files."""
    arrays = jax.tree.map(np.asarray, params)
    most = np.log(np.float32(MAX_SCALE))
    weights.write(folder, sizes, {**arrays, "logit_scale": np.minimum(arrays["logit_scale"], most)})
    for path in tokenizer.iterdir():
        write_text(folder / path.name, path.read_text(encoding="utf-8"))
    print(f"{folder}: python generate.py --clip={folder.parent} ranks pictures by it")
