"""--init_from with weights that were trained with another VQGAN than the records'.

The codes of the two VQGANs differ. Tokens are translated through pictures: the records' VQGAN
decodes tokens of the records, and the other VQGAN encodes the result.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float32, Int

from common.filling import batches_of
from common.split_names import TRAIN
from data.records import Records
from model.config import ModelConfig
from model.transformer import Params
from vqgan import pretrained
from vqgan.autoencoder import build

TABLES = {"image_embedding/tokens": 0, "head/kernel": 1, "logits_bias": 0}
"""Path of a table of image tokens → its axis of tokens."""
FREE = ("decoder_blocks", "tried_codes", "image_size")
"""Settings of a VQGAN that leave the meaning of its tokens as it is."""
TOKENS = 1 << 17
"""Most image tokens of a folder that are compared: 32 for each of 4,096 codes. A small folder
beside a large one is read whole, because it may have codes of its own."""
BATCH = 32


def translate(
    fitted: Params,
    trained: Params,
    model: ModelConfig,
    other_folder: Path,
    folders: Sequence[Records],
) -> tuple[Params, list[str]]:
    """`fitted` with the rows of the records' image tokens computed from those of `trained`, and a
    line about it; unchanged if the VQGAN of the folder `other_folder` has the records' encoder and
    codebook.

    `trained` are the weights as they were trained, `fitted` the same in the shapes of `model`. The
    folders of records have one VQGAN.

    Raises:
        ValueError: words share the table of image tokens.
    """
    records = folders[0]
    if _have_the_same_tokens(other_folder, records.vqgan_folder):
        return fitted, []
    if model.tying == "all":
        raise ValueError(
            f"{records.folder} was encoded with another VQGAN than {other_folder}, and in this "
            f"model words share the table of image tokens; encode with --vqgan {other_folder}"
        )
    shares = token_shares(folders, other_folder)
    old, new = flatten_dict(trained, sep="/"), flatten_dict(fitted, sep="/")
    for name in TABLES.keys() & new.keys():
        new[name] = _translated(np.asarray(new[name]), np.asarray(old[name]), name, shares)
    return unflatten_dict(new, sep="/"), [
        f"{records.folder} was encoded with another VQGAN than {other_folder}: each of its "
        f"{len(shares):,} image tokens begins as the mean of those that decode alike"
    ]


def token_shares(
    folders: Sequence[Records], other_folder: Path
) -> Float32[np.ndarray, "tokens other_tokens"]:
    """The frequency of each token of the other VQGAN at the positions of each token of all folders.
    Each row sums to 1; a token that did not occur has the mean over all positions."""
    vqgan, params = pretrained.load(folders[0].vqgan_folder)
    other, other_params = pretrained.load(other_folder)
    other = replace(other, tried_codes=1)  # the means change little, and it is faster

    def read(tokens: Int[Array, "b n"]) -> Int[Array, "b m"]:
        decoded = build(vqgan).decode(params, tokens).clip(-1, 1)
        size = (len(tokens), other.image_size, other.image_size, 3)
        return build(other).encode(other_params, jax.image.resize(decoded, size, "linear"))

    places = _nearest_places(vqgan.grid_size, other.grid_size)
    counts = np.zeros((vqgan.codebook_size, other.codebook_size), np.float32)
    compiled = jax.jit(read)
    for part in folders:
        rows = part.rows(TRAIN)
        rows = rows[:: max(1, len(rows) * vqgan.image_length // TOKENS)]
        for batch, count in batches_of(BATCH, len(rows)):
            tokens = np.asarray(part.image_tokens[rows[batch]], np.int32)
            seen = np.asarray(compiled(tokens))[:, places]
            np.add.at(counts, (tokens[:count], seen[:count]), 1)
    total = counts.sum(0, keepdims=True)
    counts = np.where(counts.any(1, keepdims=True), counts, total)
    return counts / counts.sum(1, keepdims=True)


def _nearest_places(size: int, other_size: int) -> Int[np.ndarray, " n"]:
    """The position in the other grid that contains the centre of each position of a `size` × `size`
    grid. Both are row-major."""
    along = ((np.arange(size) + 0.5) * other_size / size).astype(int)
    return (along[:, None] * other_size + along).reshape(-1)


def _translated(
    new: np.ndarray, old: np.ndarray, name: str, shares: Float32[np.ndarray, "tokens other_tokens"]
) -> np.ndarray:
    after = np.moveaxis(new.copy(), TABLES[name], 0)
    before = np.moveaxis(old, TABLES[name], 0)[: shares.shape[1]].astype(np.float32)
    after[: len(shares)] = np.tensordot(shares, before, 1)
    return np.moveaxis(after, 0, TABLES[name])


def _have_the_same_tokens(one: Path, other: Path) -> bool:
    """True if two folders, in any format, hold VQGANs of one encoder and codebook. Their decoders
    may differ (quantizer.fixed), and the sizes of their pictures: a token of a larger one shows
    less of the thing, but the same colours and edges."""
    (config, params), (config_2, params_2) = pretrained.load(one), pretrained.load(other)
    free = {name: getattr(config, name) for name in FREE}
    if config != replace(config_2, **free):
        return False
    finders = ({k: v for k, v in tree.items() if k != "decoder"} for tree in (params, params_2))
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, *finders)))
