"""records.json, the description of token records: its keys and their types."""

from dataclasses import asdict
from pathlib import Path

from common.json_files import Json, read_json
from data.sources.config import PLAIN, ReadingConfig
from data.stored.array_files import DTYPES

FORMAT = 1
MARKER = "records.json"
ARRAYS = {
    "image_tokens": "u16",
    "text_tokens": "u16",
    "text_lengths": "u16",
    "caption_offsets": "i64",
    "caption_weights": "f32",
    "split": "u8",
}
EXTRA = {"view_tokens": "u16", "pixel_hashes": "u64"}
"""Optional arrays: tokens of further views, and a hash of each picture."""
TRAINED_ON = (*ARRAYS, "view_tokens")
"""Arrays that the records' digest covers."""
_KEYS: dict[str, type] = {
    "grid_size": int,
    "text_length": int,
    "codebook_size": int,
    "text_vocab_size": int,
    "split_names": list,
    "counts": dict,
    "source": str,
    "arrays": dict,
    "digest": str,
}
_TEXTS = ("tokenizer_digest", "vqgan_digest", "held_out_by")
"""Optional keys."""
_MOST = 2**40  # bytes, rows and places that sizes may come to


def read_about(path: Path) -> Json:
    """The content of a records.json.

    Raises:
        ValueError: the file is damaged (the message names the key) or has another format.
    """
    try:
        about = read_json(path)
    except ValueError as error:
        raise damaged(path, str(error).removeprefix(f"{path} ")) from None
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path.parent} has format {about.get('format')}, this Pastel reads {FORMAT}"
        )
    for name, type_ in _KEYS.items():
        if not isinstance(about.get(name), type_):
            raise damaged(path, f"{name} is {about.get(name)!r:.40}, not of type {type_.__name__}")
        if type_ is int and not 0 < int(about[name]) < _MOST:
            raise damaged(path, f"{name} is {about[name]!r:.40}")
    for name in ("split_names", "sources"):
        if not _is_names(about.get(name, [""])):
            raise damaged(path, f"{name} are not all text")
    if not all(type(count) is int for count in about["counts"].values()):
        raise damaged(path, "counts are not all whole numbers")
    for name in _TEXTS:
        if not isinstance(about.get(name), str | None):
            raise damaged(path, f"{name} is {about[name]!r:.40}, not text")
    for name in (*ARRAYS, *(name for name in EXTRA if name in about["arrays"])):
        if not _is_array(about["arrays"].get(name), name):
            raise damaged(path, f"arrays does not say the type and shape of {name}")
    return about


def read_reading(path: Path, about: Json) -> ReadingConfig:
    """The settings of reading in the content of a records.json. Raises ValueError for settings of
    another version."""
    values = about.get("reading", {})
    known = {name: type(value) for name, value in asdict(PLAIN).items()}
    if not isinstance(values, dict) or any(type(v) is not known.get(k) for k, v in values.items()):
        raise damaged(path, f"reading is {values!r:.80}")
    try:
        return ReadingConfig(**values)
    except ValueError as error:
        raise damaged(path, f"of reading, {error}") from None


def _is_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_array(value: object, name: str) -> bool:
    """True if `value` has the type and the shape of an array."""
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        return False
    sizes = all(type(size) is int and 0 <= size < _MOST for size in value["shape"])
    dimensions = 2 if name.endswith("_tokens") else 1
    return sizes and len(value["shape"]) == dimensions and str(value.get("type")) in DTYPES


def damaged(path: Path, why: str) -> ValueError:
    """A ValueError for a damaged records.json, with the reason and the fix."""
    return ValueError(
        f"{path} is damaged: {why}; remove {path.parent} and encode again with "
        f"`python -m data.encode --source FOLDER_OR_TARS --out {path.parent}`"
    )
