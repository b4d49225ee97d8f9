"""Draws pictures from prompts, for generate.py, evaluate.py, the web page and the grids of a run.

`make_drawer` opens the parts (tokenizer, model, VQGAN); a `Drawer` draws.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from common.filling import batches_of
from common.pixels import to_bytes, to_floats
from data.text.captions import CLEAN, DALLE_MINI, normalizer_of, open_captions
from data.text.tokens import TextTokenizer, clean
from drawing.memory import ROWS_PER_CALL, Program, check_rows, explain_out_of_memory, within_memory
from drawing.opening import Parts
from model.config import ModelConfig, SamplingConfig
from model.sampling import NOT_FINITE, Sampler, make_sampler, num_codes
from model.transformer import Params, Transformer
from training.devices.devices import Devices
from training.devices.over_rows import split_over_devices
from training.devices.placing import place
from vqgan import pretrained as pretrained_vqgan
from vqgan.autoencoder import build as build_autoencoder
from vqgan.config import VQGANConfig

PROGRAMS = 16
"""Compiled programs of each kind in the cache."""


@dataclass(frozen=True)
class Drawer:
    """Draws pictures of prompts, always `rows_per_call` at a time on each device. With one compiled
    program of one shape, a picture depends only on its prompt and seed, bit for bit."""

    devices: Devices
    rows_per_call: int
    model: ModelConfig
    image_size: int
    num_codes: int
    """Number of codes that both the model and the VQGAN have."""
    tokenizer: TextTokenizer
    place: Callable[[Params], Params]
    """Parameters → parameters in decoding layout, on the devices; call it once for many draws."""
    sample: Sampler
    decode: Callable[[Int[np.ndarray, "b n"]], tuple[UInt8[Array, "b y x 3"], Bool[Array, " b"]]]
    """Image tokens → (pictures, True for each picture whose pixels are finite)."""
    tokenise: Callable[[UInt8[np.ndarray, "b y x 3"]], Int[Array, "b n"]]
    """Pictures → image tokens."""

    @property
    def batch_size(self) -> int:
        """Pictures drawn in one call, on all devices."""
        return self.rows_per_call * len(self.devices)

    def draw(
        self, params: Params, prompts: Sequence[str], seeds: Sequence[int]
    ) -> UInt8[np.ndarray, "m y x 3"]:
        """One picture for each prompt."""
        return np.concatenate(list(self.draw_batches(params, prompts, seeds)))

    def draw_batches(
        self,
        params: Params,
        prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> Iterator[UInt8[np.ndarray, "b y x 3"]]:
        """Yield the pictures of the prompts, at most batch_size at a time."""
        for _, pictures in self.draw_tokens(params, prompts, seeds):
            yield pictures

    def draw_tokens(
        self,
        params: Params,
        prompts: Sequence[str],
        seeds: Sequence[int],
        first_tokens: Int[np.ndarray, " k"] | None = None,
    ) -> Iterator[tuple[Int[np.ndarray, "b n"], UInt8[np.ndarray, "b y x 3"]]]:
        """Yield (image tokens, pictures), otherwise as `draw_batches`. Image tokens given in
        `first_tokens` are kept; negative ones are drawn."""
        params = self.place(params)
        text_tokens, text_mask, _ = self.tokenizer.encode(prompts, self.model.text_length)
        numbers = np.array(seeds, np.uint32)
        first_and_kept = () if first_tokens is None else self._first_and_kept(first_tokens)
        for rows, count in batches_of(self.batch_size, len(prompts)):
            with explain_out_of_memory(self.rows_per_call):
                read = text_tokens[rows], text_mask[rows], numbers[rows]
                tokens = np.asarray(self.sample(params, *read, *first_and_kept))
                check_finite([prompts[row] for row in rows], tokens)
                pictures = self.decode_batch(tokens)
            yield tokens[:count], pictures[:count]

    def _first_and_kept(self, first_tokens: Int[np.ndarray, " k"]) -> tuple[np.ndarray, ...]:
        """(first_tokens,) or (first_tokens, kept_tokens) of the sampler, a row for each picture.
        first_tokens precede the first drawn token. kept_tokens are needed if later tokens are
        given, too."""
        is_free = first_tokens < 0
        before = int(is_free.argmax()) if is_free.any() else len(first_tokens)
        rows = [first_tokens[:before]]
        if (first_tokens[before:] >= 0).any():
            missing = self.model.image_length - len(first_tokens)
            rows.append(np.pad(first_tokens, (0, missing), constant_values=-1))
        return tuple(np.tile(row, (self.batch_size, 1)) for row in rows)

    def decode_tokens(self, image_tokens: Int[np.ndarray, "m n"]) -> UInt8[np.ndarray, "m y x 3"]:
        """The pictures of these image tokens, `batch_size` at a time."""
        decoded = [
            self.decode_batch(image_tokens[rows].astype(np.int32))[:count]
            for rows, count in batches_of(self.batch_size, len(image_tokens))
        ]
        return np.concatenate(decoded)

    def decode_batch(self, image_tokens: Int[np.ndarray, "b n"]) -> UInt8[np.ndarray, "b y x 3"]:
        """The pictures of these image tokens, in one call of the VQGAN's decoder."""
        pictures, are_finite = self.decode(image_tokens)
        if not np.asarray(are_finite).all():
            raise ValueError("the VQGAN's output is NaN or infinite: its weights are damaged")
        return np.asarray(pictures)

    def encode_pictures(self, pictures: UInt8[np.ndarray, "m y x 3"]) -> Int[np.ndarray, "m n"]:
        """The image tokens of these pictures, `batch_size` at a time."""
        encoded = [
            np.asarray(self.tokenise(pictures[rows]))[:count]
            for rows, count in batches_of(self.batch_size, len(pictures))
        ]
        return np.concatenate(encoded)

    def num_cut(self, prompts: Sequence[str]) -> int:
        """The number of prompts that are truncated to the model's text_length."""
        return self.tokenizer.encode(prompts, self.model.text_length)[2]


def check_finite(prompts: Sequence[str], image_tokens: Int[np.ndarray, "b n"]) -> None:
    """Raise ValueError if the logits of a token were NaN or infinite."""
    bad = (image_tokens == NOT_FINITE).any(axis=1)
    if bad.any():
        raise ValueError(
            f"the model's output is NaN or infinite, first for the prompt "
            f"{clean(prompts[int(bad.argmax())])!r:.80}: its weights are damaged, or a narrow "
            f"compute_dtype overflows (try float32)"
        )


def make_drawer(
    model: Transformer,
    sampling: SamplingConfig,
    parts: Parts | Path,
    rows_per_call: int = ROWS_PER_CALL,
    devices: Devices | None = None,
    negative: str = "",
) -> Drawer:
    """A drawer for parameters of `model`. `parts` may be a folder with tokenizer/ and vqgan/.
    Guidance leads away from the text `negative`.

    Raises:
        ValueError: a part is missing or damaged, or does not fit the model.
    """
    if isinstance(parts, Path):
        tokenizer_folder = parts / "tokenizer"
        parts = Parts(
            tokenizer_folder, parts / "vqgan", normalizer_of(tokenizer_folder) == DALLE_MINI
        )
    check_rows(rows_per_call)
    devices = devices or Devices((jax.devices()[0],))
    tokenizer = open_captions(parts.tokenizer, DALLE_MINI if parts.normalize_text else CLEAN)
    vqgan, vqgan_params = _open_vqgan(parts)
    _check_fit(model, tokenizer.vocab_size, vqgan, parts)
    tokens, mask, _ = tokenizer.encode([negative], model.config.text_length)
    empty = tuple(tokens[0].tolist()), tuple(mask[0].tolist())
    codes = min(vqgan.codebook_size, num_codes(model))
    rows = rows_per_call * (1 if sampling.guidance_scale == 1 else 2)
    sample = _sampler(model, sampling, empty, codes, devices, rows_per_call)
    decode, tokenise = _codec(vqgan, devices, rows_per_call)
    vqgan_params = place(vqgan_params, devices)
    on_cpu = devices.devices[0].platform == "cpu"
    return Drawer(
        devices=devices,
        rows_per_call=rows_per_call,
        model=model.config,
        image_size=model.config.grid_size * vqgan.factor,
        num_codes=codes,
        tokenizer=tokenizer,
        place=lambda params: place(model.lay_out(params, rows if on_cpu else None), devices),
        sample=sample,
        decode=lambda image_tokens: decode(vqgan_params, image_tokens),
        tokenise=lambda pictures: tokenise(vqgan_params, pictures),
    )


@functools.lru_cache(maxsize=PROGRAMS)
def _sampler(
    model: Transformer,
    sampling: SamplingConfig,
    empty: tuple[tuple[int, ...], tuple[bool, ...]],
    codes: int,
    devices: Devices,
    rows: int,
) -> Sampler:
    """The program that draws image tokens, `rows` at a time on each device. Drawers of the same
    model with other weights share it. `empty` holds tokens and mask of the text that guidance leads
    away from."""
    text = np.array([empty[0]], np.int32), np.array([empty[1]], bool)
    sample = make_sampler(model, sampling, text, codes)
    return within_memory(split_over_devices(sample, devices), devices, rows)


@functools.lru_cache(maxsize=PROGRAMS)
def _codec(vqgan: VQGANConfig, devices: Devices, rows: int) -> tuple[Program, Program]:
    """The VQGAN's two programs: (params, image tokens) → (pictures, True for each finite picture),
    and (params, pictures) → image tokens."""
    autoencoder = build_autoencoder(vqgan)

    @jax.jit
    def decode(
        params: Params, image_tokens: Int[Array, "b n"]
    ) -> tuple[UInt8[Array, "b y x 3"], Bool[Array, " b"]]:
        decoded = autoencoder.decode(params, image_tokens)
        return to_bytes(decoded), jnp.isfinite(decoded).all(axis=(1, 2, 3))

    @jax.jit
    def tokenise(params: Params, pictures: UInt8[Array, "b y x 3"]) -> Int[Array, "b n"]:
        return autoencoder.encode(params, to_floats(pictures))

    return within_memory(split_over_devices(decode, devices), devices, rows), tokenise


def _open_vqgan(parts: Parts) -> tuple[VQGANConfig, Params]:
    try:
        return pretrained_vqgan.load(parts.vqgan)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; name one with --vqgan") from None


def _check_fit(model: Transformer, text_vocab_size: int, vqgan: VQGANConfig, parts: Parts) -> None:
    """Raise ValueError for parts that cannot work together. Warn about a VQGAN of another size: it
    works, but the model was probably trained with another VQGAN."""
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
    """The 32-bit seed of picture `number` of a prompt. It depends on no other prompt or picture."""
    text = f"{seed}\n{number}\n{clean(prompt)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
