"""The open model behind app.py: it draws untrusted requests, row by row.

One compiled program serves every prompt, negative text, guidance, temperature and seed.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from data.text.languages import English
from data.text.tokens import clean
from data.text.words import Captions, describe_unknown, describe_unlike, unknown_words
from drawing.drawer import Drawer, check_finite, make_drawer, picture_seed
from drawing.opening import open_checkpoint, parts_of
from drawing.prompts import known_captions
from drawing.unfinished import unfinished
from model import transformer
from model.config import SamplingConfig
from model.row_sampling import RowSampler
from model.transformer import Params

SIZES = (1, 4, 9)
"""Numbers of pictures drawn at a time; there is one compiled program for each."""
LONGEST = 500
"""Characters after which a prompt is truncated."""
MAX_GUIDANCE, MAX_TEMPERATURE, MAX_SEED = 20.0, 5.0, 2**32 - 1
STYLE = re.compile(r"(.+), (.+ style)")
"""Captions of several artists' pictures, such as "a cat, noto style"."""


@dataclass(frozen=True)
class Request:
    """A checked request, made by `request`."""

    prompt: str
    negative: str
    number: int
    guidance_scale: float
    temperature: float
    seed: int


def request(
    prompt: object,
    style: object = "",
    negative: object = "",
    number: object = 1,
    guidance_scale: object = 1.0,
    temperature: object = 1.0,
    seed: object = 0,
) -> Request:
    """A request from untrusted values. Texts are cleaned and truncated to LONGEST characters.

    Raises:
        ValueError: a value is not a text, or not a number in its range.
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


def _text(value: object, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the {name} is a {type(value).__name__}; it must be a text")
    return clean((value or "")[: 4 * LONGEST])[:LONGEST]


def _number(value: object, name: str, least: float, most: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        return float(value)  # browsers send 2.0 as 2
    raise ValueError(f"the {name} must be a number in {least:g}…{most:g}")


@dataclass(frozen=True)
class Studio:
    """An open model. `draw` may have one caller at a time."""

    drawer: Drawer
    params: Params
    """The parameters, as `drawer.place` returns them."""
    sampler: RowSampler
    sampling: SamplingConfig
    """The model's own settings."""
    captions: Sequence[str]
    """The captions that the model was trained on; empty if they are unknown."""

    def draw(self, asked: Request) -> Iterator[UInt8[np.ndarray, "k y x 3"]]:
        """Yield the pictures after each row of image tokens; the last ones are finished.

        Raises:
            ValueError: the model returns NaN.
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
            yield unfinished(self.drawer, tokens, count)[: asked.number]

    def _read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens, mask, _ = self.drawer.tokenizer.encode(texts, self.drawer.model.text_length)
        return tokens, mask

    def remarks(self, asked: Request) -> list[str]:
        """Warnings about words of a request that the model does not know, or that are truncated."""
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
            lines += [describe_unknown(words)] if words else []
            lines += describe_unlike(texts, self._known)
        return lines

    def in_english(self, asked: Request) -> Request:
        """The request, with the prompt in the words of the captions."""
        return replace(asked, prompt=self._english.read(asked.prompt)) if self.captions else asked

    @cached_property
    def styles(self) -> list[str]:
        """The styles in the captions ("…, noto style"), the most frequent first."""
        matches = (STYLE.fullmatch(caption) for caption in self.captions)
        return [style for style, _ in Counter(m[2] for m in matches if m).most_common(20)]

    def known(self, most: int = 18) -> list[str]:
        """Some captions without a style, evenly spaced: things that the model can draw."""
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
    """The open model of a checkpoint. Raises ValueError as `opening.open_checkpoint` does."""
    checkpoint = open_checkpoint(path)
    model = transformer.build(checkpoint.model)
    drawer = make_drawer(model, checkpoint.sampling, parts_of(checkpoint), SIZES[-1])
    return Studio(
        drawer,
        drawer.place(checkpoint.params),
        RowSampler(model, checkpoint.sampling, drawer.num_codes),
        checkpoint.sampling,
        [text.strip() for text in known_captions(checkpoint.folder, checkpoint.all_records) or []],
    )
