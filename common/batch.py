"""The arrays of a batch by name, for each kind of batch.

A batch is a plain dict, so jax needs no registration. `A` is the kind of its arrays: np.ndarray
from the data, jax.Array in the update, jax.ShapeDtypeStruct for shapes alone.
"""

from typing import Generic, NotRequired, TypedDict, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

A = TypeVar("A")


class Batch(TypedDict, Generic[A]):
    """The entry that every batch has."""

    example_index: Int32[A, " b"]
    """The place of each row in the whole batch. It determines the row's random numbers."""


class Tokens(TypedDict, Generic[A]):
    """Pictures and captions as tokens."""

    text_tokens: Int32[A, "b t"]
    text_mask: Bool[A, "b t"]
    """True for a token of the caption, False for padding."""
    image_tokens: Int32[A, "b n"]


class TokenBatch(Tokens[A], Batch[A], Generic[A]):
    """The rows of one update of the transformer."""


class EvalBatch(TokenBatch[A], Generic[A]):
    """A batch of an evaluation, in which all batches have one size."""

    weight: Float32[A, " b"]
    """0 for a row that only fills up the last batch; 1 for the others."""


class ChoiceBatch(EvalBatch[A], Generic[A]):
    """A batch of an evaluation, with captions of other pictures for each picture."""

    other_tokens: Int32[A, "b c t"]
    other_mask: Bool[A, "b c t"]
    """True for a token of a caption, False for padding."""


class PictureBatch(Batch[A], Generic[A]):
    """Pictures, for the VQGAN."""

    pixels: UInt8[A, "b y x 3"]
    image_tokens: NotRequired[Int32[A, "b n"]]
    """Given if the tokens are fixed (quantizer.fixed)."""


class PairBatch(Batch[A], Generic[A]):
    """Pictures and tokenised captions, for CLIP."""

    pixels: UInt8[A, "b y x 3"]
    text_tokens: Int32[A, "b t"]
    text_mask: Bool[A, "b t"]


HostBatch = Batch[np.ndarray]
"""This process's rows of a batch of any kind."""
