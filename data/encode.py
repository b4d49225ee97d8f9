"""Captioned pictures to token records, the form that train.py reads.

python -m data.encode --source FOLDER_OR_TARS --out records/mine
"""

import hashlib
import os
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32

from data.captions import CLEAN, normalizer_of
from data.folders import digest_folder, holds
from data.records import FORMAT, MARKER, open_records
from data.sources import PLAIN, ReadingConfig, Source, open_source
from data.tokenise import CaptionOptions, PictureEncoder, make_records
from files import check_free

OFTEN = (
    *("source", "out", "vqgan", "tokenizer", "captions", "caption_column", "kind", "held_out"),
    *("fit", "text_length"),
)
"""Settings that --help begins with."""
_HASHED_WHOLE = 256 << 20  # bytes; a larger source is recognised by file sizes and times


@dataclass(frozen=True)
class EncodeConfig(ReadingConfig):
    """The source, VQGAN and tokenizer, and the folder for the records."""

    source: tuple[str, ...] = field(
        default=("pictures/things",),
        metadata={
            "nargs": "*",
            "help": "One or several sources: folders of pictures with captions beside them, tars, "
            "tables or saved data sets, in any layout of docs/layouts.md; globs, {a,b} lists and "
            "{000..123} ranges in quotes.",
        },
    )
    """Captioned pictures."""
    out: str = "records/things"
    """Folder for the records; it must be new, or hold what the same command wrote before."""
    vqgan: str = "vqgan/general"
    """Folder of the VQGAN that turns pictures into tokens; the shipped one knows drawings,
    photographs and textures of 64 × 64 pixels."""
    tokenizer: str | None = None
    """Folder of a tokenizer; by default one is trained on the training captions."""
    normalizer: Literal["clean", "dalle_mini"] | None = None
    """Normaliser of captions before the tokenizer. Default: the one that the tokenizer's folder
    names, dalle_mini for DALL·E mini's, else clean."""
    vocab_size: int = 2048
    """Text tokens of a newly trained tokenizer; 2,048 suit captions of a few thousand words."""
    text_length: int = 24
    """Tokens per caption, the end included; longer captions are truncated."""
    held_out: float = 0.05
    """Share of the pictures that are kept from training for evaluation, chosen by their look:
    copies of another size or format stay together. Sources that name splits themselves, as the
    built-in data does, keep theirs."""


def main(config: EncodeConfig) -> None:
    """Encode unless it is done; print the number of examples in each split."""
    _check(config)
    reading = reading_of(config)
    source, out = open_source(config.source, config=reading), Path(config.out)
    recipe = describe(config, source)
    if holds(out, MARKER, {"format": FORMAT, "recipe": recipe}):
        print(f"{out} is finished already: {_counts(out)}")
        return
    check_same(out, recipe)
    check_free(out)
    print(source.describe(), flush=True)
    oddities = make_records(
        source,
        open_encoder(Path(config.vqgan)),
        CaptionOptions(
            Path(config.tokenizer) if config.tokenizer else None,
            config.vocab_size,
            config.text_length,
            config.held_out,
            config.normalizer,
        ),
        out,
        source_names=config.source,
        reading=reading,
        vqgan_folder=Path(config.vqgan),
        recipe=recipe,
    )
    for oddity in oddities:
        print(f"warning: {oddity}", file=sys.stderr)
    print(f"{out}: {_counts(out)}")


def _check(config: EncodeConfig) -> None:
    for name, folder in (("vqgan", config.vqgan), ("tokenizer", config.tokenizer)):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{name} folder {folder} does not exist")
    if not 0 <= config.held_out < 1:
        raise ValueError(f"held_out {config.held_out} is not between 0 and 1")
    if not 2 <= config.text_length <= 4096:
        raise ValueError(f"text_length {config.text_length} is not between 2 and 4096")


def check_same(out: Path, recipe: dict[str, Any]) -> None:
    """Raise ValueError if `out` holds records of another source or other settings; the message
    names them."""
    if not (out / MARKER).is_file():
        return
    about = open_records(out).about
    was = about.get("recipe")
    was = was if isinstance(was, dict) else {}
    differing = sorted(name for name in {*was, *recipe} if was.get(name) != recipe.get(name))
    changed = ", ".join(
        "the source's files" if name == "source" else f"{name} (was {was.get(name)}, now {now})"
        for name, now in ((name, recipe.get(name)) for name in differing)
    )
    raise ValueError(
        f"{out} holds something else: {_counts(out)}, and since then {changed or 'its format'} "
        f"changed; encode into a new folder with --out {out}-2 and train there with "
        f"--data.records={out}-2, or remove {out} first"
    )


def describe(config: EncodeConfig, source: Source) -> dict[str, Any]:
    """A short description of everything that decides the records, to be stored and compared."""
    tokenizer = {"vocab_size": config.vocab_size}
    chosen = config.normalizer or (
        normalizer_of(Path(config.tokenizer)) if config.tokenizer else CLEAN
    )
    changed = {k: v for k, v in asdict(reading_of(config)).items() if v != getattr(PLAIN, k)}
    changed.pop("max_bad_fraction", None)
    return {
        **({"reading": changed} if changed else {}),
        **({} if chosen == CLEAN else {"normalizer": chosen}),
        "source": fingerprint(source),
        "vqgan": digest_folder(Path(config.vqgan)),
        "tokenizer": digest_folder(Path(config.tokenizer)) if config.tokenizer else tokenizer,
        "text_length": config.text_length,
        "held_out": config.held_out,
    }


def reading_of(config: EncodeConfig) -> ReadingConfig:
    """The settings of reading alone."""
    return ReadingConfig(**{one.name: getattr(config, one.name) for one in fields(ReadingConfig)})


def fingerprint(source: Source) -> str:
    """A hash of the source's files: of their content or, for a large source, of their sizes and
    times."""
    stats = [_size_and_time(file) for file in source.files]
    whole = sum(size for size, _ in stats) <= _HASHED_WHOLE
    hashed = hashlib.blake2b(digest_size=8)
    for file, (size, time) in zip(source.files, stats, strict=True):
        content = _content(file) if whole else str(time).encode()
        name = os.path.relpath(file, source.path)
        hashed.update(f"{name}:{size}:".encode(errors="surrogateescape") + content)
    return hashed.hexdigest()


# The encoding itself counts and names unreadable files, so they may not fail here.
def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b"unreadable"


def open_encoder(folder: Path) -> PictureEncoder:
    """The VQGAN's encoder as one compiled program."""
    import jax

    from vqgan import autoencoder, pretrained

    config, params = pretrained.load(folder)
    compiled = jax.jit(autoencoder.build(config).encode)

    def encode(pixels: Float32[np.ndarray, "b y x 3"]) -> Int32[np.ndarray, "b k"]:
        return np.asarray(compiled(params, pixels))

    return PictureEncoder(config.image_size, config.codebook_size, encode)


def _counts(out: Path) -> str:
    records = open_records(out)
    parts = (f"{count:,} {split}" for split, count in records.about["counts"].items())
    return f"{len(records):,} pictures ({', '.join(parts)})"


if __name__ == "__main__":
    import runtime
    from config import run

    runtime.prepare()
    run(main, EncodeConfig, prog="python -m data.encode", about=__doc__ or "", often=OFTEN)
