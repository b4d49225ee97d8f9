"""From a checkpoint and prompts to pictures: what generate.py, evaluate.py, the notebooks and the
training run's grids have in common.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from config import Config, from_yaml
from data.text import TextTokenizer, clean, open_tokenizer
from model import pretrained, transformer
from model.config import ModelConfig, SamplingConfig
from model.sampling import Sampler, make_sampler
from model.transformer import Params, Transformer
from training.checkpoint import Checkpoints
from vqgan import autoencoder
from vqgan import pretrained as pretrained_vqgan

T = TypeVar("T")

BATCH_SIZE = 32
"""Pictures drawn at a time unless told otherwise; the same everywhere, for one compiled program."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, and what it takes to draw with it."""

    folder: Path
    """Holds tokenizer/ and vqgan/ as well."""
    step: int | None
    """Finished updates; None for a release, which does not say."""
    model: ModelConfig
    sampling: SamplingConfig
    params: Params
    records: str | None
    """The token records it was trained on, as the run's configuration names them."""
    records_digest: str | None
    """What these records held then (Records.digest); None where nothing says so."""


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """The checkpoint's own sampling settings, unless a flag says otherwise."""

    guidance_scale: float | None = None
    """1 = no guidance; default: the checkpoint's."""
    temperature: float | None = None
    """0 = greedy; default: the checkpoint's."""
    top_k: int | None = None
    """Draw only among so many tokens, 0 = all; default: the checkpoint's."""
    top_p: float | None = None
    """Draw only among the tokens that make up this probability; default: the checkpoint's."""

    def over(self, sampling: SamplingConfig) -> SamplingConfig:
        """`sampling`, with the flags that were given in place."""

        def given(flag: T | None, own: T) -> T:
            return own if flag is None else flag

        return replace(
            sampling,
            guidance_scale=given(self.guidance_scale, sampling.guidance_scale),
            temperature=given(self.temperature, sampling.temperature),
            top_k=given(self.top_k, sampling.top_k),
            top_p=given(self.top_p, sampling.top_p),
        )


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a run folder (its newest step), RUN/checkpoints/STEP, or a release folder, which may be
    another program's (model/pretrained.py).

    Raises:
        ValueError: when it is none of these, or damaged.
    """
    path = Path(path)
    if (path / pretrained.CONFIG_FILE).is_file():
        found = pretrained.read(path)
        return Checkpoint(path, None, found.model, found.sampling, found.params, None, None)
    is_step = path.parent.name == "checkpoints" and path.name.isdecimal()
    run, step = (path.parent.parent, int(path.name)) if is_step else (path, None)
    if not (run / "config.yaml").is_file() or not (run / "checkpoints").is_dir():
        raise ValueError(
            f"no checkpoint at {path}: looked for a run folder (config.yaml and checkpoints/), a "
            f"step in one (RUN/checkpoints/STEP) and a release (config.json and model.safetensors)"
        )
    config = from_yaml(Config, run / "config.yaml")
    step, params, digest = _restore(run, step, config.model)
    return Checkpoint(run, step, config.model, config.sampling, params, config.data.records, digest)


def _restore(run: Path, step: int | None, config: ModelConfig) -> tuple[int, Params, str | None]:
    """The step, its parameters, and the digest of the records saved beside them."""
    shapes = jax.eval_shape(transformer.build(config).init, jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was trained
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)
    with Checkpoints(run / "checkpoints") as checkpoints:
        step = checkpoints.latest_step() if step is None else step
        if step is None or not (run / "checkpoints" / str(step)).is_dir():
            raise ValueError(f"{run}/checkpoints holds no {'step' if step is None else step}")
        digest = checkpoints.about(step).get("records")
        return step, checkpoints.restore_params(like, step), digest


@dataclass(frozen=True)
class Drawer:
    """Draws pictures of prompts, always `batch_size` at a time: in one compiled program of one
    shape a picture depends on its own prompt and seed alone, bit for bit."""

    batch_size: int
    image_size: int
    tokenizer: TextTokenizer
    text_length: int
    sample: Sampler
    paint: Callable[[Int[Array, "b n"]], UInt8[Array, "b y x 3"]]

    def draw(
        self, params: Params, prompts: Sequence[str], seeds: Sequence[int]
    ) -> UInt8[np.ndarray, "m y x 3"]:
        """One picture per prompt, all at once."""
        return np.concatenate(list(self.draw_batches(params, prompts, seeds)))

    def draw_batches(
        self, params: Params, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[UInt8[np.ndarray, "b y x 3"]]:
        """The same, some at a time, at most batch_size."""
        text_tokens, text_mask, _ = self.tokenizer.encode(prompts, self.text_length)
        numbers = np.array(seeds, np.uint32)
        for rows, count in self._batches(len(prompts)):
            tokens = self.sample(params, text_tokens[rows], text_mask[rows], numbers[rows])
            yield np.asarray(self.paint(tokens))[:count]

    def paint_tokens(self, image_tokens: Int[np.ndarray, "m n"]) -> UInt8[np.ndarray, "m y x 3"]:
        """The pictures that image tokens stand for."""
        painted = [
            np.asarray(self.paint(jnp.asarray(image_tokens[rows], jnp.int32)))[:count]
            for rows, count in self._batches(len(image_tokens))
        ]
        return np.concatenate(painted)

    def num_cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than the model reads."""
        return self.tokenizer.encode(prompts, self.text_length)[2]

    def _batches(self, total: int) -> Iterator[tuple[Int[np.ndarray, "b"], int]]:
        """Indices of batch_size rows, and how many of them count: the last row fills up."""
        for start in range(0, total, self.batch_size):
            rows = np.minimum(np.arange(start, start + self.batch_size), total - 1)
            yield rows, min(self.batch_size, total - start)


def make_drawer(
    model: Transformer, sampling: SamplingConfig, folder: Path, batch_size: int = BATCH_SIZE
) -> Drawer:
    """A drawer for parameters of `model`, with folder/tokenizer and folder/vqgan.

    Raises:
        ValueError: when these do not fit the model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1 picture")
    tokenizer = open_tokenizer(folder / "tokenizer")
    vqgan_config, vqgan_params = pretrained_vqgan.load(folder / "vqgan")
    _check_fit(model.config, tokenizer.vocab_size, vqgan_config.grid_size, folder)
    empty_tokens, empty_mask, _ = tokenizer.encode([""], model.config.text_length)
    decode = autoencoder.build(vqgan_config).decode

    @jax.jit
    def paint(params: Params, image_tokens: Int[Array, "b n"]) -> UInt8[Array, "b y x 3"]:
        return jnp.round((decode(params, image_tokens) + 1) * 127.5).astype(jnp.uint8)

    return Drawer(
        batch_size,
        vqgan_config.image_size,
        tokenizer,
        model.config.text_length,
        make_sampler(model, sampling, (empty_tokens, empty_mask), vqgan_config.codebook_size),
        lambda image_tokens: paint(vqgan_params, image_tokens),
    )


def _check_fit(config: ModelConfig, text_vocab_size: int, grid_size: int, folder: Path) -> None:
    if grid_size != config.grid_size or text_vocab_size > config.text_vocab_size:
        raise ValueError(
            f"the model has text_vocab_size {config.text_vocab_size} and grid_size "
            f"{config.grid_size}, but the tokenizer and VQGAN in {folder} have {text_vocab_size} "
            f"and {grid_size}; use those that it was trained with"
        )


def picture_seed(seed: int, prompt: str, number: int) -> int:
    """The 32-bit seed of one picture: other prompts and pictures do not change it."""
    text = f"{seed}\n{number}\n{clean(prompt)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
