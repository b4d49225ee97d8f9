"""Held-out pictures of the artists: pairs of thing and artist, skin tones of such pairs, and whole
things. They are chosen by crc32 of names, as in data/builtin/openmoji_splits.py."""

from collections.abc import Mapping, Sequence

from common.split_names import GALLERY, TRAIN
from data.builtin.artist_sets import Drawing
from data.builtin.drawings import digest, rasterise
from data.builtin.openmoji_splits import crc


def rasterise_and_split(
    drawings: Sequence[Drawing], side: int
) -> tuple[dict[str, bytes], dict[str, str]]:
    """(PNG, split) of each drawing, by key; `side` in pixels."""
    pictures = rasterise({drawing.key: drawing.svg for drawing in drawings}, side)
    return pictures, assign_splits(drawings, {key: digest(png) for key, png in pictures.items()})


def assign_splits(drawings: Sequence[Drawing], digests: Mapping[str, str]) -> dict[str, str]:
    """The split of each drawing, by key. train: trained on. style: thing and artist are known, but
    never together. tone: this artist's picture of this thing is known in another skin tone only.
    concept: nobody's picture of the thing is known. gallery: not asked, because the picture equals
    a training picture (`digests`, by key), or is a skin tone of a held-out pair."""
    splits = {drawing.key: _rule(drawing) for drawing in drawings}
    trained = {digests[key] for key, split in splits.items() if split == TRAIN}
    return {
        key: GALLERY if split != TRAIN and digests[key] in trained else split
        for key, split in splits.items()
    }


def _rule(drawing: Drawing) -> str:
    emoji, pair = drawing.emoji, f"{drawing.emoji.concept}:{drawing.style}"
    if crc(f"c:{emoji.concept}") % 40 == 0:
        return GALLERY if emoji.tone else "concept"
    if crc(pair) % 8 == 0:
        return GALLERY if emoji.tone else "style"
    tones = [int(tone) for tone in emoji.tone.split(",") if tone]
    return "tone" if len(tones) == 1 and tones[0] == 1 + crc(f"t:{pair}") % 5 else TRAIN
