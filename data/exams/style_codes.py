"""Classifies a picture's style by its image tokens, from counts of real pictures; no network.

The nearest real picture of a thing is nearest by its composition. A style is an outline, a shading,
a palette, and these determine the VQGAN's codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer

from data.records import Records

PRIOR = 0.1
"""Added to every count, so that a code that a style never used does not exclude it."""
MOST_PICTURES = 20_000
"""Most training pictures that are counted, evenly chosen."""


@dataclass(frozen=True, eq=False)
class StyleCodes:
    """How often the training pictures of each style use each code of the VQGAN."""

    names: tuple[str, ...]
    log_shares: Float[np.ndarray, "s c"]
    """The logarithm of each code's share in a style's pictures."""

    def most_likely(self, image_tokens: Integer[np.ndarray, "b n"]) -> list[str]:
        """The style under which each picture's tokens are most likely, by naive Bayes with styles
        that are equally likely beforehand."""
        usage = code_usage(image_tokens, self.log_shares.shape[1])
        return [self.names[best] for best in (usage @ self.log_shares.T).argmax(axis=1)]

    def are_right(
        self, image_tokens: Integer[np.ndarray, "p k n"], asked: Sequence[str | None]
    ) -> Float[np.ndarray, "p k"]:
        """1 if the most likely style of a picture is the prompt's, 0 if not; NaN if the prompt
        names no style, or one without training pictures."""
        prompts, per_prompt, _ = image_tokens.shape
        styles = self.most_likely(image_tokens.reshape(prompts * per_prompt, -1))
        answers = np.array(styles).reshape(prompts, per_prompt) == np.array(asked, object)[:, None]
        known = np.array([style in self.names for style in asked])
        return np.where(known[:, None], answers, np.nan).astype(np.float32)


def count_codes(records: Records, rows: Int64[np.ndarray, " t"]) -> StyleCodes | None:
    """The counts of these rows; None if they have fewer than two styles."""
    styles = np.array([records.examples[i].get("style") or "" for i in rows], object)
    num_codes, names = records.codebook_size, tuple(sorted(set(styles) - {""}))
    if len(names) < 2:
        return None
    counts = np.full((len(names), num_codes), PRIOR)
    for index, name in enumerate(names):
        for row in rows[styles == name]:
            counts[index] += code_usage(records.image_tokens[row][None], num_codes)[0]
    return StyleCodes(names, np.log(counts / counts.sum(axis=1, keepdims=True)))


def code_usage(
    image_tokens: Integer[np.ndarray, "b n"], num_codes: int
) -> Float[np.ndarray, "b c"]:
    """The square root of how often each code stands in each picture: a background of one code does
    not outweigh the drawing."""
    return np.sqrt(np.stack([np.bincount(tokens, minlength=num_codes) for tokens in image_tokens]))
