"""The tokenizer of captions together with its normaliser.

pastel.json in the tokenizer's folder names the normaliser, so it is copied into records, runs and
releases. In folders of DALL·E mini it is normalize_text in config.json, which is beside the
tokenizer's files or, in our releases, one folder up.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from common.files import write_text
from common.json_files import Json, read_json
from data.text.normalise import make_normalizer
from data.text.tokens import TextTokenizer, open_tokenizer

Normalizer = Literal["clean", "dalle_mini"]
CLEAN: Normalizer = "clean"
DALLE_MINI: Normalizer = "dalle_mini"
MARK = "pastel.json"
_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def normalizer_of(folder: Path) -> Normalizer:
    """The name of the normaliser for the captions of a tokenizer's folder.

    Raises:
        ValueError: the folder names an unknown normaliser, or the file that names it is damaged.
    """
    if (folder / MARK).is_file():
        named = read_json(folder / MARK).get("normalizer")
        if named not in (CLEAN, DALLE_MINI):
            raise ValueError(
                f"{folder / MARK}: normalizer is {named!r:.60}; known are {CLEAN}, {DALLE_MINI}"
            )
        return DALLE_MINI if named == DALLE_MINI else CLEAN
    places = [folder, folder.parent] if folder.name == "tokenizer" else [folder]
    for config in (place / "config.json" for place in places):
        if config.is_file() and _asks_for_normalizing(read_json(config)):
            return DALLE_MINI
    return CLEAN


def _asks_for_normalizing(config: Mapping[str, object]) -> bool:
    origin = config.get("origin")
    theirs = origin.get("config") if isinstance(origin, dict) else None
    theirs = theirs if isinstance(theirs, dict) else config
    return theirs.get("normalize_text") is True


def open_captions(folder: Path, normalizer: Normalizer | None = None) -> TextTokenizer:
    """The tokenizer of a folder, with `normalizer` before it; None = the folder's. Raises
    ValueError as `open_tokenizer` and `normalizer_of` do."""
    chosen = normalizer or normalizer_of(folder)
    return open_tokenizer(folder, make_normalizer() if chosen == DALLE_MINI else None)


def copy_tokenizer(source: Path, folder: Path, normalizer: Normalizer) -> None:
    """Copy the tokenizer's files out of a folder, and write the normaliser's name beside them."""
    if source.is_file():
        source, names = source.parent, [source.name]
    else:
        names = [name for name in (*_FILES, *_SETTINGS) if (source / name).is_file()]
    folder.mkdir()
    for name in names:
        shutil.copyfile(source / name, folder / name)
    write_text(folder / MARK, f'{{"normalizer": "{normalizer}"}}\n')


def describe(folder: Path, text_length: int) -> Json:
    """A description of tokenizer and normaliser, which records store and compare."""
    tokenizer = open_captions(folder)
    return {
        "normalizer": normalizer_of(folder),
        "words": hash_vocabulary(folder),
        "text_length": text_length,
        "pad_id": tokenizer.pad_id,
        "end_id": tokenizer.end_id,
    }


def hash_vocabulary(folder: Path) -> str:
    """A short hash of a tokenizer's vocabulary files."""
    hashed = hashlib.blake2b(digest_size=8)
    for name in _FILES:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            hashed.update(f"{name}:{len(content)}:".encode() + content)
            if name == "tokenizer.json":
                break  # older files beside it are not read
    return hashed.hexdigest()


def check_unchanged(records: Path, about_text: object, text_length: int) -> None:
    """Raise ValueError unless the tokenizer in a folder of records makes the same tokens as when
    the records were written. Older records describe nothing: their captions were only cleaned."""
    folder = records / "tokenizer"
    was = about_text if isinstance(about_text, dict) else {}
    was = {"normalizer": CLEAN, **{k: v for k, v in was.items() if v is not None}}
    for name, now in describe(folder, text_length).items():
        if was.get(name, now) != now:
            raise ValueError(
                f"{records} holds captions made with {name} {was[name]}, and its tokenizer now has "
                f"{now}; encode again, or put back the {folder} that made them"
            )


def check_same_as_records(kept: Path, ours: Path) -> None:
    """Raise ValueError if a run's tokenizer or normaliser differs from its records'."""
    if not kept.is_dir():
        return
    was, now = ((hash_vocabulary(f), normalizer_of(f)) for f in (kept, ours))
    if was != now:
        raise ValueError(
            f"{kept} (words {was[0]}, normaliser {was[1]}) is not the tokenizer of {ours.parent} "
            f"(words {now[0]}, normaliser {now[1]}); resume with the records of this run"
        )


def compare_tokenizers(
    theirs: Path, their_normalizer: Normalizer, ours: Path, weights: str
) -> list[str]:
    """Compare the tokenizer folder that weights were trained with to the one in records.

    Returns:
        One line if the vocabularies differ, as for a new language.

    Raises:
        ValueError: the vocabulary is the same, but captions go through another normaliser.
    """
    if hash_vocabulary(theirs) != hash_vocabulary(ours):
        return [f"another tokenizer than in {weights}: its text embedding knows other words"]
    if (now := normalizer_of(ours)) != their_normalizer:
        raise ValueError(
            f"{weights} was trained on captions that went through the normaliser "
            f"{their_normalizer}, and captions in {ours.parent} through {now}; encode again with "
            f"--tokenizer={theirs} --normalizer={their_normalizer}"
        )
    return []
