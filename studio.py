"""One trained model that stays open, and draws requests of strangers row by row: behind app.py.

One program serves every prompt, negative text, guidance, temperature and seed.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data.languages import English
from data.text import clean
from data.words import Captions, tell_far, tell_unknown, unknown_words
from drawing import Drawer, check_finite, make_drawer, picture_seed
from model import transformer
from model.config import SamplingConfig
from model.row_sampling import RowSampler
from model.transformer import Params
from opening import open_checkpoint, parts_of
from prompts import known_captions

SIZES = (1, 4, 9)
"""Pictures that are drawn at a time: a program each, compiled once."""
LONGEST = 500
"""Characters of a prompt that are read."""
MAX_GUIDANCE, MAX_TEMPERATURE, MAX_SEED = 20.0, 5.0, 2**32 - 1
STYLE = re.compile(r"(.+), (.+ style)")
"""Captions of several artists' pictures, such as "a cat, noto style"."""


@dataclass(frozen=True)
class Request:
    """What somebody wants drawn; made by `request`."""

    prompt: str
    negative: str
    number: int
    guidance_scale: float
    temperature: float
    seed: int


def request(
    prompt: Any,
    style: Any = "",
    negative: Any = "",
    number: Any = 1,
    guidance_scale: Any = 1.0,
    temperature: Any = 1.0,
    seed: Any = 0,
) -> Request:
    """A request from untrusted values. Texts are cleaned and truncated to LONGEST characters.

    Raises:
        ValueError: a text is none, or a number is not in its range.
    """
    words = [_text(prompt, "prompt"), _text(style, "style")]
    return Request(
        ", ".join(word for word in words if word),
        _text(negative, "negative prompt"),
        int(_number(number, "number of pictures", 1, SIZES[-1])),
        _number(guidance_scale, "guidance", 0, MAX_GUIDANCE),
        _number(temperature, "temperature", 0, MAX_TEMPERATURE),
        int(_number(seed, "seed", 0, MAX_SEED)),
    )


def _text(value: Any, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the {name} is a {type(value).__name__}; it must be a text")
    return clean((value or "")[: 4 * LONGEST])[:LONGEST]


def _number(value: Any, name: str, least: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"the {name} must be a number in {least:g}…{most:g}")
    return float(value)  # browsers send 2.0 as 2


@dataclass(frozen=True)
class Studio:
    """An open model. `draw` is for one caller at a time."""

    drawer: Drawer
    params: Params
    """As the drawer placed them."""
    sampler: RowSampler
    sampling: SamplingConfig
    """The model's own settings."""
    captions: Sequence[str]
    """Its training captions; empty if they are not known."""

    def draw(self, asked: Request) -> Iterator[UInt8[np.ndarray, "k y x 3"]]:
        """The pictures after each row of image tokens, the finished ones last.

        Raises:
            ValueError: the weights give NaN.
        """
        asked = self.in_english(asked)
        size = next(size for size in SIZES if size >= asked.number)
        numbers = np.minimum(np.arange(size), asked.number - 1)
        seeds = [picture_seed(asked.seed, asked.prompt, int(number)) for number in numbers]
        rows = self.sampler.rows(
            self.params,
            self._read([asked.prompt] * size),
            self._read([asked.negative]),
            np.array(seeds, np.uint32),
            asked.guidance_scale,
            asked.temperature,
        )
        for count, tokens in enumerate(rows, 1):
            check_finite([asked.prompt] * size, tokens)
            yield self.drawer.stage(tokens, count)[: asked.number]

    def _read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens, mask, _ = self.drawer.tokenizer.encode(texts, self.drawer.model.text_length)
        return tokens, mask

    def remarks(self, asked: Request) -> list[str]:
        """Lines about the words of a request that the model does not know or read."""
        english = self.in_english(asked)
        texts = [text for text in (english.prompt, asked.negative) if text]
        lines = []
        if english.prompt != asked.prompt:
            lines.append(f'it is drawn as "{english.prompt}"')
        if self.drawer.num_cut(texts):
            length = self.drawer.model.text_length
            lines.append(f"only the first {length} text tokens of it are read")
        if self.captions and texts:
            words = unknown_words(texts, self._known.words)
            lines += [tell_unknown(words)] if words else []
            lines += tell_far(texts, self._known)
        return lines

    def in_english(self, asked: Request) -> Request:
        """The request, with the name of its thing as captions have it."""
        return replace(asked, prompt=self._english.read(asked.prompt)) if self.captions else asked

    @cached_property
    def styles(self) -> list[str]:
        """Styles that captions name behind a comma, the most frequent first."""
        found = (STYLE.fullmatch(caption) for caption in self.captions)
        return [style for style, _ in Counter(m[2] for m in found if m).most_common(20)]

    def known(self, most: int = 18) -> list[str]:
        """Captions without a style, chosen evenly: things that the model can draw."""
        articled = [c for c in self.captions if re.match("an? ", c) and " style" not in c]
        plain = articled or [caption for caption in self.captions if not STYLE.fullmatch(caption)]
        return Captions(plain).some(most) if plain else []

    @cached_property
    def _english(self) -> English:
        return English(self._known)

    @cached_property
    def _known(self) -> Captions:
        return Captions(self.captions)


def open_studio(path: str) -> Studio:
    """The model of a checkpoint. Raises ValueError as `opening.open_checkpoint` does."""
    checkpoint = open_checkpoint(path)
    model = transformer.build(checkpoint.model)
    drawer = make_drawer(model, checkpoint.sampling, parts_of(checkpoint), SIZES[-1])
    return Studio(
        drawer,
        drawer.place(checkpoint.params),
        RowSampler(model, checkpoint.sampling, drawer.num_codes),
        checkpoint.sampling,
        [text.strip() for text in known_captions(checkpoint.folder, checkpoint.records) or []],
    )
