"""Pictures ranked by how well they show their prompt, by CLIP: scores, and the best first.

A score is CLIP's similarity of picture and prompt, times its scale: with published weights 100 ×
the cosine between their features. DALL·E (Ramesh et al. 2021, arXiv:2102.12092) and DALL·E mini
show samples ranked by it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8

from clip import towers
from clip.towers import Clip
from clip.weights import CLIP_FOLDER
from common import clone
from common.filling import batches_of
from common.pixels import to_floats
from data.text.captions import open_captions
from data.text.tokens import TextTokenizer, clean

BATCH_SIZE = 32
"""Pictures or prompts per call of CLIP, by default."""


@dataclass(frozen=True)
class Ranker:
    """A CLIP with its tokenizer. It always gets `batch_size` pictures: with one compiled program, a
    score depends only on its own picture and prompt, bit for bit."""

    clip: Clip
    tokenizer: TextTokenizer
    batch_size: int = BATCH_SIZE

    def score(
        self, prompts: Sequence[str], pictures: UInt8[np.ndarray, "m y x 3"]
    ) -> Float32[np.ndarray, " m"]:
        """The score of picture i with prompt i, for each i."""
        return np.array([score for _, score in self.score_batches(prompts, [pictures])], np.float32)

    def score_batches(
        self, prompts: Sequence[str], batches: Iterable[UInt8[np.ndarray, "b y x 3"]]
    ) -> Iterator[tuple[UInt8[np.ndarray, "y x 3"], float]]:
        """Yield (picture, score) for each picture of the batches. Picture i belongs to prompt i;
        equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompts))
        row = {prompt: i for i, prompt in enumerate(distinct)}
        texts = self.text_features(distinct)
        remaining = iter(prompts)
        for pictures in batches:
            text_of_each = texts[[row[next(remaining)] for _ in pictures]]
            scores = self.clip.scale * (self.image_features(pictures) * text_of_each).sum(axis=1)
            yield from zip(pictures, scores.tolist(), strict=True)

    def text_features(self, prompts: Sequence[str]) -> Float32[np.ndarray, "m e"]:
        """CLIP's features of prompts, truncated to its text length with the end token kept."""
        tokens, mask, _ = self.tokenizer.encode(prompts, self.clip.config.text_length)
        return self._in_batches(
            len(prompts), lambda rows: self.clip.text_features(tokens[rows], mask[rows])
        )

    def image_features(self, pictures: UInt8[np.ndarray, "m y x 3"]) -> Float32[np.ndarray, "m e"]:
        """CLIP's features of pictures."""

        def features(rows: Int[np.ndarray, " b"]) -> Float[Array, "b e"]:
            return self.clip.image_features(to_floats(pictures[rows]))

        return self._in_batches(len(pictures), features)

    def _in_batches(
        self, total: int, features: Callable[[Int[np.ndarray, " b"]], Float[Array, "b e"]]
    ) -> Float32[np.ndarray, "m e"]:
        """The features of `total` rows, computed batch_size at a time."""
        batches = [np.empty((0, self.clip.config.feature_dim), np.float32)]
        for rows, count in batches_of(self.batch_size, total):
            batches.append(np.asarray(features(rows))[:count])
        return np.concatenate(batches)


def open_ranker(folder: str | Path, batch_size: int = BATCH_SIZE) -> Ranker:
    """The ranker of a folder with CLIP's published weights and tokenizer, or of a clip.train run.

    Raises:
        ValueError: they are missing or damaged, or do not fit each other.
    """
    path = clone.find(folder)
    inner = path / CLIP_FOLDER
    path = inner if inner.is_dir() and not (path / "config.json").is_file() else path
    model = towers.load(path)
    return Ranker(model, open_clip_tokenizer(path, model), batch_size)


def find_ranker(
    named: str | None, beside: Path, candidates: int, records: str | None
) -> Ranker | None:
    """The ranker of the folder `named`, or of clip/ in the checkpoint's folder `beside`; None
    without either. Raises ValueError if candidates need one and there is none."""
    folder = beside / CLIP_FOLDER
    if named or folder.is_dir():
        return open_ranker(named or folder)
    if candidates:
        raise ValueError(
            "candidates are ranked by a CLIP: train one with `python -m clip.train --data.records="
            f"{records or 'RECORDS'} --output_dir=runs/clip`, and add --clip=runs/clip"
        )
    return None


def open_clip_tokenizer(folder: Path, model: Clip) -> TextTokenizer:
    """The tokenizer of a folder. Raises ValueError if it does not fit `model`."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"no tokenizer.json in {folder}; CLIP's own belongs beside its weights")
    tokenizer = open_captions(folder)
    config = model.config
    if tokenizer.vocab_size > config.text_vocab_size:
        raise ValueError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, more than the "
            f"{config.text_vocab_size} that its CLIP knows; use the one that CLIP was trained with"
        )
    end_id = tokenizer.vocab_size - 1 if config.end_id is None else config.end_id
    if tokenizer.end_id != end_id:
        raise ValueError(
            f"the tokenizer in {folder} ends a text with token {tokenizer.end_id}, but its CLIP "
            f"looks for token {end_id}; use the one that CLIP was trained with"
        )
    (frame,) = tokenizer.token_ids([""])
    if len(frame) != 1 + config.has_start or frame[-1] != end_id:
        wanted = "a start and an end token" if config.has_start else "an end token"
        raise ValueError(
            f"the tokenizer in {folder} makes {frame} of the empty text; CLIP's makes {wanted} "
            f"(its post_processor in tokenizer.json)"
        )
    return tokenizer


def scored(
    ranker: Ranker | None,
    prompts: Sequence[str],
    batches: Iterable[UInt8[np.ndarray, "b y x 3"]],
) -> Iterator[tuple[UInt8[np.ndarray, "y x 3"], float | None]]:
    """Yield (picture, score) for each picture; scores are None without a ranker."""
    if ranker is None:
        return ((picture, None) for pictures in batches for picture in pictures)
    return ranker.score_batches(prompts, batches)


def best_first(
    pictures: UInt8[np.ndarray, "p k y x 3"], scores: Float32[np.ndarray, "p k"]
) -> tuple[UInt8[np.ndarray, "p k y x 3"], Int[np.ndarray, "p k"]]:
    """(the pictures of each prompt by descending score, their numbers in that order)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(pictures, order[:, :, None, None, None], axis=1), order


def check_candidates(candidates: int, pictures: int) -> None:
    """Raise ValueError if there are fewer candidates than pictures to choose."""
    if 0 < candidates < pictures:
        raise ValueError(
            f"candidates {candidates} are fewer than the {pictures} pictures chosen among them; "
            f"take --candidates={4 * pictures}"
        )


def describe_scores(prompt: str, scores: Sequence[float], most: int = 5) -> str:
    """A text such as "a red heart: 27.31 (picture 3), 26.90 (picture 0), 4 others below"."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    shown = [f"{scores[i]:.2f} (picture {i})" for i in order[:most]]
    others = [f"{len(order) - most} others below"] if len(order) > most else []
    return f"{clean(prompt) or '(empty prompt)'}: {', '.join(shown + others)}"
