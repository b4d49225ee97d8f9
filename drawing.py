"""From a checkpoint and prompts to pictures: what generate.py, evaluate.py, the notebooks and the
training run's grids have in common.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from config import Config, from_yaml
from data.text import TextTokenizer, clean, make_normalizer, open_tokenizer
from model import pretrained, transformer
from model.config import ModelConfig, SamplingConfig
from model.sampling import Sampler, make_sampler, num_codes
from model.transformer import Params, Transformer
from training.checkpoint import Checkpoints
from training.parallel import Devices, deal_rows, place
from training.runs import place_of
from vqgan import pretrained as pretrained_vqgan
from vqgan.autoencoder import build as build_autoencoder
from vqgan.config import VQGANConfig
from weights.releases import Origin

ROWS_PER_CALL = 32
"""Pictures drawn at a time on a device unless told otherwise."""


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
    origin: Origin | None = None
    """The other program that it comes from, if it does."""

    @property
    def normalize_text(self) -> bool:
        """Whether its captions were normalised as DALL·E mini does."""
        return self.origin is not None and self.origin.config.get("normalize_text") is True


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """The checkpoint's own sampling settings, unless a flag says otherwise."""

    guidance_scale: float | None = None
    """1 = no guidance; default: the checkpoint's."""
    guidance_start: float | None = None
    """Share of the picture drawn before guidance sets in; default: the checkpoint's."""
    guidance_end: float | None = None
    """Share of the picture drawn when guidance stops; default: the checkpoint's."""
    temperature: float | None = None
    """0 = greedy; default: the checkpoint's."""
    top_k: int | None = None
    """Draw only among so many tokens, 0 = all; default: the checkpoint's."""
    top_p: float | None = None
    """Draw only among the tokens that make up this probability; default: the checkpoint's."""

    def over(self, sampling: SamplingConfig) -> SamplingConfig:
        """`sampling`, with the flags that were given in place."""

        names = [one.name for one in fields(SamplingConfig)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(sampling, **given)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a run folder (its newest step), RUN/checkpoints/STEP, or a release folder, which may be
    another program's (model/pretrained.py).

    Raises:
        ValueError: when it is none of these, or damaged.
    """
    path = Path(path)
    if (path / pretrained.CONFIG_FILE).is_file():
        found = pretrained.read(path)
        return Checkpoint(
            path, None, found.model, found.sampling, found.params, None, None, found.origin
        )
    is_step = path.parent.name == "checkpoints" and path.name.isdecimal()
    run, step = (path.parent.parent, int(path.name)) if is_step else (path, None)
    config = from_yaml(Config, run / "config.yaml") if (run / "config.yaml").is_file() else None
    if config is None or not (config.checkpoint.folder or (run / "checkpoints").is_dir()):
        raise ValueError(
            f"no checkpoint at {path}: looked for a run folder (config.yaml and checkpoints/), a "
            f"step in one (RUN/checkpoints/STEP) and a release (config.json and model.safetensors)"
        )
    where = place_of(run, config.checkpoint.folder)
    step, params, digest = _restore(where, step, config.model)
    return Checkpoint(run, step, config.model, config.sampling, params, config.data.records, digest)


def _restore(where: str, step: int | None, config: ModelConfig) -> tuple[int, Params, str | None]:
    """The step, its parameters, and the digest of the records saved beside them."""
    shapes = transformer.build(config).shapes
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was trained
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)
    with Checkpoints(where) as checkpoints:
        if step is None:
            found = checkpoints.newest_params(like)  # a damaged step is passed over, with a line
            if found is None:
                raise ValueError(f"{where} holds no step")
            step, params = found
        elif step in checkpoints.steps():
            params = checkpoints.restore_params(like, step)
        else:
            raise ValueError(f"{where} holds no {step}")
        return step, params, checkpoints.about(step).get("records")


@dataclass(frozen=True)
class Drawer:
    """Draws pictures of prompts, always `rows_per_call` at a time on each device: in one compiled
    program of one shape a picture depends on its own prompt and seed alone, bit for bit."""

    devices: Devices
    rows_per_call: int
    model: ModelConfig
    image_size: int
    num_codes: int
    """Codes that model and VQGAN both know."""
    tokenizer: TextTokenizer
    place: Callable[[Params], Params]
    """Lays parameters out for decoding and puts them on the devices; once for many draws."""
    sample: Sampler
    paint: Callable[[Int[Array, "b n"]], UInt8[Array, "b y x 3"]]
    tokenise: Callable[[UInt8[np.ndarray, "b y x 3"]], Int[Array, "b n"]]

    @property
    def batch_size(self) -> int:
        """Pictures drawn at a time, on all devices together."""
        return self.rows_per_call * len(self.devices)

    def draw(
        self, params: Params, prompts: Sequence[str], seeds: Sequence[int]
    ) -> UInt8[np.ndarray, "m y x 3"]:
        """One picture per prompt, all at once."""
        return np.concatenate(list(self.draw_batches(params, prompts, seeds)))

    def draw_batches(
        self,
        params: Params,
        prompts: Sequence[str],
        seeds: Sequence[int],
        first_tokens: Int[np.ndarray, " k"] | None = None,
    ) -> Iterator[UInt8[np.ndarray, "b y x 3"]]:
        """The same, some at a time, at most batch_size; each completes the `first_tokens`."""
        params = self.place(params)
        text_tokens, text_mask, _ = self.tokenizer.encode(prompts, self.model.text_length)
        numbers = np.array(seeds, np.uint32)
        given = () if first_tokens is None else (np.tile(first_tokens, (self.batch_size, 1)),)
        for rows, count in self._batches(len(prompts)):
            tokens = self.sample(params, text_tokens[rows], text_mask[rows], numbers[rows], *given)
            yield np.asarray(self.paint(tokens))[:count]

    def paint_tokens(self, image_tokens: Int[np.ndarray, "m n"]) -> UInt8[np.ndarray, "m y x 3"]:
        """The pictures that image tokens stand for."""
        painted = [
            np.asarray(self.paint(jnp.asarray(image_tokens[rows], jnp.int32)))[:count]
            for rows, count in self._batches(len(image_tokens))
        ]
        return np.concatenate(painted)

    def first_tokens(self, picture: UInt8[np.ndarray, "y x 3"], rows: int) -> Int[np.ndarray, " k"]:
        """The image tokens of a picture's first rows of tokens, for `draw_batches` to complete.

        Raises:
            ValueError: there are not so many rows, or the model knows fewer codes than the VQGAN.
        """
        columns = self.model.grid_size
        if not 0 < rows <= columns:
            raise ValueError(f"a picture has {columns} rows of image tokens; {rows} is none of 1…")
        tokens = np.asarray(self.tokenise(picture[None]))[0, : rows * columns].astype(np.int32)
        if tokens.max() >= self.num_codes:
            raise ValueError(
                f"the picture holds code {tokens.max()} of the VQGAN, the model knows "
                f"{self.num_codes} codes; use the VQGAN that it was trained with"
            )
        return tokens

    def num_cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than the model reads."""
        return self.tokenizer.encode(prompts, self.model.text_length)[2]

    def _batches(self, total: int) -> Iterator[tuple[Int[np.ndarray, " b"], int]]:
        """Indices of batch_size rows, and how many of them count: the last row fills up."""
        for start in range(0, total, self.batch_size):
            rows = np.minimum(np.arange(start, start + self.batch_size), total - 1)
            yield rows, min(self.batch_size, total - start)


def rows_for(total: int, num_devices: int = 1) -> int:
    """Rows per call that serve `total` pictures: a power of two up to 32, so that few programs are
    ever compiled."""
    share = -(-total // num_devices)
    return min(ROWS_PER_CALL, 1 << max(share - 1, 0).bit_length())


@dataclass(frozen=True)
class Parts:
    """What a model draws with: its tokenizer and its VQGAN."""

    tokenizer: Path
    vqgan: Path
    normalize_text: bool = False
    """Whether captions go through DALL·E mini's normaliser, as its models were trained."""
    are_given: bool = False
    """Named by hand: what merely looks odd is then a warning."""


def parts_of(
    checkpoint: Checkpoint, tokenizer: str | None = None, vqgan: str | None = None
) -> Parts:
    """The checkpoint's own tokenizer and VQGAN, or those named instead.

    Raises:
        ValueError: the checkpoint has no tokenizer and none is named.
    """
    folder = checkpoint.folder
    own = folder / "tokenizer"
    if not own.is_dir() and any((folder / name).is_file() for name in pretrained.TOKENIZER_FILES):
        own = folder  # other programs keep the tokenizer's files beside the weights
    if tokenizer is None and not own.is_dir():
        raise ValueError(f"no tokenizer in {folder}; name one with --tokenizer")
    return Parts(
        Path(tokenizer) if tokenizer else own,
        Path(vqgan) if vqgan else folder / "vqgan",
        checkpoint.normalize_text,
        vqgan is not None,
    )


def make_drawer(
    model: Transformer,
    sampling: SamplingConfig,
    parts: Parts | Path,
    rows_per_call: int = ROWS_PER_CALL,
    devices: Devices | None = None,
) -> Drawer:
    """A drawer for parameters of `model`. A folder as `parts` has tokenizer/ and vqgan/ in it.

    Raises:
        ValueError: when a part is missing, damaged or does not fit the model.
    """
    if isinstance(parts, Path):
        parts = Parts(parts / "tokenizer", parts / "vqgan")
    if rows_per_call < 1:
        raise ValueError(f"rows_per_call {rows_per_call} must be at least 1 picture")
    devices = devices or Devices((jax.devices()[0],))
    normalize = make_normalizer() if parts.normalize_text else None
    tokenizer = open_tokenizer(parts.tokenizer, normalize)
    vqgan, vqgan_params = _open_vqgan(parts)
    _check_fit(model, tokenizer.vocab_size, vqgan, parts)
    empty_tokens, empty_mask, _ = tokenizer.encode([""], model.config.text_length)
    autoencoder = build_autoencoder(vqgan)

    @jax.jit
    def paint(params: Params, image_tokens: Int[Array, "b n"]) -> UInt8[Array, "b y x 3"]:
        pixels = jnp.clip(autoencoder.decode(params, image_tokens), -1.0, 1.0)
        return jnp.round((pixels + 1) * 127.5).astype(jnp.uint8)

    @jax.jit
    def tokenise(params: Params, pictures: UInt8[Array, "b y x 3"]) -> Int[Array, "b n"]:
        return autoencoder.encode(params, pictures.astype(jnp.float32) / 127.5 - 1)

    codes = min(vqgan.codebook_size, num_codes(model))
    rows = rows_per_call * (1 if sampling.guidance_scale == 1 else 2)
    sample = make_sampler(model, sampling, (empty_tokens, empty_mask), codes)
    paint_rows = deal_rows(paint, devices)
    vqgan_params = place(vqgan_params, devices)
    return Drawer(
        devices,
        rows_per_call,
        model.config,
        model.config.grid_size * vqgan.factor,
        codes,
        tokenizer,
        lambda params: place(model.lay_out(params, rows), devices),
        deal_rows(sample, devices),
        lambda image_tokens: paint_rows(vqgan_params, image_tokens),
        lambda pictures: tokenise(vqgan_params, pictures),
    )


def _open_vqgan(parts: Parts) -> tuple[VQGANConfig, Params]:
    try:
        return pretrained_vqgan.load(parts.vqgan)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; name one with --vqgan") from None


def _check_fit(model: Transformer, text_vocab_size: int, vqgan: VQGANConfig, parts: Parts) -> None:
    """Raises ValueError for what cannot be, warns of what is odd: a VQGAN can paint any grid of its
    codes, but it is likely that the model was trained with another one."""
    config, codes = model.config, num_codes(model)
    if text_vocab_size > config.text_vocab_size:
        raise ValueError(
            f"the tokenizer {parts.tokenizer} has {text_vocab_size} tokens, more than the model's "
            f"text_vocab_size {config.text_vocab_size}; use the one that it was trained with"
        )
    if config.image_length != config.grid_size**2:
        raise ValueError(
            f"the model writes {config.image_length} tokens, not a square of them: no picture"
        )
    odd = []
    if vqgan.grid_size != config.grid_size:
        odd.append(f"grid_size {vqgan.grid_size}, the model's {config.grid_size}")
    if vqgan.codebook_size > codes:
        odd.append(f"codebook_size {vqgan.codebook_size}, more than the model's {codes}")
    if odd:
        message = f"the VQGAN {parts.vqgan} has {' and '.join(odd)}"
        if not parts.are_given:
            raise ValueError(f"{message}; use the one that it was trained with")
        print(f"warning: {message}: was it trained with this VQGAN?", file=sys.stderr)


def picture_seed(seed: int, prompt: str, number: int) -> int:
    """The 32-bit seed of one picture: other prompts and pictures do not change it."""
    text = f"{seed}\n{number}\n{clean(prompt)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
