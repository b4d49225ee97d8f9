"""Tars of pictures in webdataset's layout, as the commands that make pictures write them."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.json_files import Json
from data.stored.folders import holds

PICTURES_PER_TAR = 1000
DescribedPicture = tuple[str, bytes, Mapping[str, object]]
"""(key, PNG, content of the JSON: captions, weights, split and more)"""


def is_made(marker: Path, description: Json) -> bool:
    """True if the folder of the JSON file `marker` holds pictures of this subset and size, composed
    or not. A line says so if other code or packages made them: they are kept, because records may
    have been made of them."""
    folder, is_composed = marker.parent, description.get("composed") is not None
    settings = {name: description[name] for name in ("subset", "image_size")}
    if not holds(folder, marker.name, settings):
        return False
    if holds(folder, marker.name, {"composed": None}) is is_composed:
        return False
    if not holds(folder, marker.name, description):
        print(
            f"{folder} was made by another version of Pastel or of the drawings' packages, and is "
            f"used as it is; remove it to make it anew",
            file=sys.stderr,
        )
    return True


def write_tars(folder: Path, pictures: Iterable[DescribedPicture]) -> dict[str, int]:
    """Write 00000.tar, 00001.tar … with KEY.png and KEY.json of each picture, the same bytes every
    time. Return the number of pictures of each split."""
    import webdataset

    counts: Counter[str] = Counter()
    with webdataset.ShardWriter(
        str(folder / "%05d.tar"), maxcount=PICTURES_PER_TAR, verbose=0, mtime=0
    ) as tars:
        for key, png, about in pictures:
            text = json.dumps(about, ensure_ascii=False)
            tars.write({"__key__": key, "png": png, "json": text.encode()})
            counts[str(about["split"])] += 1
    return dict(sorted(counts.items()))
