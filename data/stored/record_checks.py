"""Checks of token records against their digests.

Opening records checks samples of each array. `python -m data.check`, and the first training on a
machine, read all of them.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from common.json_files import Json
from data.stored.array_files import read_ahead
from data.stored.examples import Examples
from data.stored.folders import digest_folder
from data.stored.records_json import TRAINED_ON

SEEN = ".checked.json"
"""A file beside the records: names, sizes and times of the files that were read and undamaged."""
_GLANCE = 64  # places checked in each array
_CHUNK = 1 << 16  # rows read at a time

Arrays = Mapping[str, np.ndarray]


def check_shapes(folder: Path, about: Json, arrays: Arrays) -> None:
    """Raise ValueError, naming the file, if the arrays do not fit each other or records.json."""
    count, captions = len(arrays["image_tokens"]), len(arrays["text_tokens"])
    extra = []
    if "view_tokens" in arrays:
        views, width = arrays["view_tokens"].shape
        extra = [
            ("view_tokens", width, about["grid_size"] ** 2),
            ("view_tokens", views, max(views // max(count, 1), 1) * count),
        ]
    if "pixel_hashes" in arrays:
        extra.append(("pixel_hashes", len(arrays["pixel_hashes"]), count))
    for name, has, wanted in (
        *extra,
        ("image_tokens", arrays["image_tokens"].shape[1], about["grid_size"] ** 2),
        ("text_tokens", arrays["text_tokens"].shape[1], about["text_length"]),
        ("split", len(arrays["split"]), count),
        ("caption_offsets", len(arrays["caption_offsets"]), count + 1),
        ("text_lengths", len(arrays["text_lengths"]), captions),
        ("caption_weights", len(arrays["caption_weights"]), captions),
    ):
        if has != wanted:
            whole = f"{count:,} pictures with {captions:,} captions"
            raise _damaged(folder, about, name, f"it has {has:,} where {whole} need {wanted:,}")


def check_samples(folder: Path, about: Json, arrays: Arrays) -> None:
    """Check samples of every array, in a time that does not depend on their sizes.

    Raises:
        ValueError: a value is impossible; the message names the file.
    """
    for name, array in arrays.items():
        places = np.unique(np.linspace(0, len(array) - 1, _GLANCE).astype(np.int64))
        if len(array):
            _check_values(folder, about, name, np.asarray(array[places]), places)
    offsets = arrays["caption_offsets"]
    if offsets[0] != 0 or offsets[-1] != len(arrays["text_tokens"]):
        wanted = f"0 to {len(arrays['text_tokens']):,}"
        why = f"it runs from {offsets[0]:,} to {offsets[-1]:,}, not from {wanted}"
        raise _damaged(folder, about, "caption_offsets", why)
    recorded = about.get("tokenizer_digest")
    if recorded is not None and recorded != (actual := digest_folder(folder / "tokenizer")):
        raise ValueError(
            f"{folder / 'tokenizer'} is another tokenizer ({actual}) than the one that made the "
            f"text tokens ({recorded}); put that one back, or encode again"
        )


def check_whole(folder: Path, about: Json, arrays: Arrays, examples: Examples) -> Iterator[str]:
    """Read all files, and yield the name of each undamaged one.

    Raises:
        ValueError: a file is damaged; the message names the first.
    """
    hashed = hashlib.blake2b("\n".join(about["split_names"]).encode(), digest_size=8)
    saved = about.get("digests")
    digests = saved if isinstance(saved, dict) else {}
    for name, array in arrays.items():
        read_ahead(array)
        alone = hashlib.blake2b(digest_size=8)
        both = (alone, hashed) if name in TRAINED_ON else (alone,)
        if name in TRAINED_ON:
            hashed.update(f"{name}{array.shape}".encode())
        for start in range(0, len(array), _CHUNK):
            part = np.ascontiguousarray(array[start : start + _CHUNK])
            for digest in both:
                digest.update(part)
            _check_values(folder, about, name, part, np.arange(start, start + len(part)))
        if digests.get(name, alone.hexdigest()) != alone.hexdigest():
            raise _damaged(folder, about, name, "its digest has changed since it was written")
        yield _file(about, name)
    if (np.diff(arrays["caption_offsets"]) < 1).any():
        raise _damaged(folder, about, "caption_offsets", "an example has no captions")
    if hashed.hexdigest() != about["digest"]:
        raise ValueError(
            f"{folder} is damaged: the digest of its arrays is {hashed.hexdigest()}, and was "
            f"{about['digest']} when they were written; {_again(folder)}"
        )
    if len(examples) not in (0, len(arrays["split"])):
        raise ValueError(
            f"{folder / 'examples.jsonl'} is damaged: {len(examples):,} lines for "
            f"{len(arrays['split']):,} pictures; {_again(folder)}"
        )
    recorded = about.get("vqgan_digest")
    if recorded is not None and digest_folder(folder / "vqgan") != recorded:
        raise ValueError(
            f"{folder / 'vqgan'} is another VQGAN than the one that made the image tokens; "
            f"{_again(folder)}"
        )


def was_checked(folder: Path) -> bool:
    """True if `mark_checked` was called for these files. Sizes, times and inodes are compared."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        for place in _places(folder):
            if place.is_file() and json.loads(place.read_bytes()) == file_versions(folder):
                return True
    return False


def mark_checked(folder: Path) -> None:
    """Record beside the files, or in the user's cache, that they are undamaged."""
    for place in _places(folder):
        if place.exists() and not place.is_file():  # a pipe would wait for a reader
            continue
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(file_versions(folder)) + "\n", encoding="utf-8")
            return


def file_versions(folder: Path) -> dict[str, list[int]]:
    """Name → [size, time, inode] of each file. Copied or restored files have other inodes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEEN)
    stats = {str(p.relative_to(folder)): p.stat() for p in files}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats.items()}


def _places(folder: Path) -> list[Path]:
    home = os.path.expanduser("~")  # "~" stays if the system does not know the user
    cache = os.environ.get("XDG_CACHE_HOME") or (
        os.path.join(home, ".cache") if home != "~" else ""
    )
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=8).hexdigest()
    elsewhere = [Path(cache, "pastel", f"checked-{name}.json")] if cache else []
    return [folder / SEEN, *elsewhere]


def _check_values(
    folder: Path,
    about: Json,
    name: str,
    part: np.ndarray,
    places: Int64[np.ndarray, " p"],
) -> None:
    """Raise ValueError for impossible values in `part`, the rows `places` of an array."""
    lowest, end = {
        "image_tokens": (0, about["codebook_size"]),
        "view_tokens": (0, about["codebook_size"]),
        "pixel_hashes": (0, np.inf),
        "text_tokens": (0, about["text_vocab_size"]),
        "text_lengths": (1, about["text_length"] + 1),
        "split": (0, len(about["split_names"])),
        "caption_offsets": (0, np.inf),
        "caption_weights": (np.nextafter(0, 1), np.inf),  # NaN is in no range
    }[name]
    flat = part.reshape(len(part), -1)
    bad = np.flatnonzero(~((flat >= lowest) & (flat < end)).all(axis=1))
    if len(bad):
        row = flat[bad[0]]
        value = row[~((row >= lowest) & (row < end))][0]
        allowed = "positive and finite" if name == "caption_weights" else f"{lowest} … {end - 1:,}"
        raise _damaged(
            folder, about, name, f"row {places[bad[0]]:,} holds {value:,}; allowed is {allowed}"
        )


def _file(about: Json, name: str) -> str:
    return f"{name}.{about['arrays'][name]['type']}"


def _damaged(folder: Path, about: Json, name: str, why: str) -> ValueError:
    return ValueError(f"{folder / _file(about, name)} is damaged: {why}; {_again(folder)}")


def _again(folder: Path) -> str:
    return (
        f"restore it, or remove {folder} and encode again with "
        f"`python -m data.encode --source FOLDER_OR_TARS --out {folder}`"
    )
