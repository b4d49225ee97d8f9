"""--reuse: tokens of pictures that were encoded before, found by a hash of the pixels. Of a source
that grew, only the new pictures are encoded."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from data.records import Records, open_records


class KnownPictures(Mapping[int, Int32[np.ndarray, "v k"]]):
    """Hash of a picture → the tokens of its views. It takes 16 bytes of memory per picture."""

    def __init__(self, records: Records) -> None:
        assert records.pixel_hashes is not None
        self._records = records
        self._rows = np.argsort(records.pixel_hashes, kind="stable")
        self._sorted = records.pixel_hashes[self._rows]

    def _find(self, picture: object) -> int:
        """The row of a picture, or −1."""
        wanted = np.uint64(picture)  # type: ignore[arg-type]
        place = int(np.searchsorted(self._sorted, wanted))
        is_there = place < len(self._sorted) and self._sorted[place] == wanted
        return int(self._rows[place]) if is_there else -1

    def __contains__(self, picture: object) -> bool:
        return self._find(picture) >= 0

    def __getitem__(self, picture: int) -> Int32[np.ndarray, "v k"]:
        if (row := self._find(picture)) < 0:
            raise KeyError(picture)
        rows = [self._records.image_tokens[row : row + 1]]
        if self._records.view_tokens is not None:
            more = self._records.more_views
            rows.append(self._records.view_tokens[row * more : (row + 1) * more])
        return np.concatenate(rows).astype(np.int32)

    def __iter__(self) -> Iterator[int]:
        return (int(place) for place in self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)


def open_known(folder: Path, vqgan_digest: str, views: int, flips: bool) -> KnownPictures:
    """The encoded pictures of a folder of records.

    Raises:
        ValueError: another VQGAN made them, their views differ, or they have no hashes.
    """
    records = open_records(folder)
    about = records.about.get("views")
    settings = about if isinstance(about, dict) else {}
    if records.pixel_hashes is None:
        raise ValueError(
            f"reuse {folder}: these records do not say which picture is which, because an "
            f"earlier version made them; omit --reuse"
        )
    if records.about.get("vqgan_digest") != vqgan_digest:
        raise ValueError(
            f"reuse {folder}: another VQGAN made its tokens; use --vqgan={folder / 'vqgan'}, or "
            f"omit --reuse"
        )
    if (1 + records.more_views, settings.get("flips", False)) != (views, flips):
        raise ValueError(
            f"reuse {folder}: it has {1 + records.more_views} views of a picture"
            f"{', mirrored ones too' if settings.get('flips') else ''}; use --views="
            f"{1 + records.more_views} --flips={str(bool(settings.get('flips'))).lower()}"
        )
    return KnownPictures(records)
