"""Tars of pictures in webdataset's layout, as the commands that make pictures write them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

PICTURES_PER_TAR = 1000
DescribedPicture = tuple[str, bytes, Mapping[str, object]]
"""(key, PNG, content of the JSON: captions, weights, split and more)"""


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
