"""Settings of data.encode, and a description of everything that determines the records."""

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from common.json_files import Json
from data.sources import PLAIN, ReadingConfig, Source
from data.sources.files.remote import RemotePath
from data.stored.folders import digest_folder
from data.text.captions import CLEAN, normalizer_of
from data.text.tokens import check_vocab_size

OF_CAPTIONS = ("tokenizer", "normalizer", "text_length")
"""Parts of the description that do not change the shards."""
_HASHED_WHOLE = 256 << 20  # bytes; a larger source is recognised by file sizes and times


@dataclass(frozen=True)
class ProcessesConfig:
    """Several processes that encode one source together, as train.py's do."""

    coordinator: str | None = None
    """HOST:PORT of process 0, where the processes meet. Found under SLURM, Open MPI, Kubernetes and
    on TPU pods; else the same on every process."""
    num_processes: int | None = None
    """Number of processes; found as the coordinator is. 1 = this process alone."""
    process_id: int | None = None
    """Number of this process, from 0; found as the coordinator is."""


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
    """Folder for the records. It must be new, or hold the output of the same command."""
    vqgan: str = "vqgan/general"
    """Folder of the VQGAN that encodes pictures as tokens. The shipped one was trained on drawings,
    photographs and textures of 64 × 64 pixels."""
    tried_codes: int | None = None
    """Number of codes that the encoder tries at each place of a picture. It keeps the code that
    reconstructs the picture best. Default: the number in the VQGAN's config. 1 is fastest."""
    tokenizer: str | None = None
    """Folder of a tokenizer. By default a new one is trained on the training captions."""
    normalizer: Literal["clean", "dalle_mini"] | None = None
    """Normaliser that captions pass before the tokenizer. Default: the one that the tokenizer's
    folder names; dalle_mini for DALL·E mini's tokenizer; else clean."""
    vocab_size: int = 2048
    """Text tokens of a newly trained tokenizer; 2,048 suit captions of a few thousand words."""
    text_length: int = 24
    """Tokens per caption, the end included; longer captions are truncated."""
    held_out: float = 0.05
    """Share of the pictures that is held out for evaluation. The choice depends on a picture's
    look, so copies of another size or format stay together. A source that names splits, as the
    built-in data does, keeps its own."""
    views: int = 1
    """Views of each picture; each training example uses a random one. The first is the plain
    picture; the others are shifted and up to a quarter closer. The time to encode grows in
    proportion."""
    flips: bool = False
    """Mirror half of the views beside the plain one, except of pictures whose captions name a side.
    Letters and clocks are mirrored, too."""
    reuse: str | None = None
    """Folder of earlier records with the same VQGAN. Their pictures are not encoded again. The new
    records are the same as without reuse."""
    shard_size: int = 10_240
    """Pictures per shard. Each finished shard is saved. The records do not depend on the number."""
    parallel: ProcessesConfig = field(default_factory=ProcessesConfig)
    """Several processes that encode one source together, as train.py's do."""


def check_settings(config: EncodeConfig) -> None:
    """Raise ValueError for impossible settings."""
    for name, folder in (("vqgan", config.vqgan), ("tokenizer", config.tokenizer)):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{name} folder {folder} does not exist")
    if not 0 <= config.held_out < 1:
        raise ValueError(f"held_out {config.held_out} is not between 0 and 1")
    if not 2 <= config.text_length <= 4096:
        raise ValueError(f"text_length {config.text_length} is not between 2 and 4096")
    if not 1 <= config.views <= 256:
        raise ValueError(f"views {config.views} is not between 1 and 256")
    if config.flips and config.views == 1:
        raise ValueError(
            "flips mirrors views beside the plain one, and there are none; add --views=4"
        )
    if config.tried_codes is not None and config.tried_codes < 1:
        raise ValueError(f"tried_codes {config.tried_codes} is not at least 1")
    if config.shard_size < 1:
        raise ValueError(f"shard_size {config.shard_size} is not at least 1")
    if config.tokenizer is None:
        check_vocab_size(config.vocab_size)


def describe(config: EncodeConfig, source: Source) -> Json:
    """A description of everything that determines the records; data.encode stores and compares
    it."""
    tokenizer = {"vocab_size": config.vocab_size}
    chosen = config.normalizer or (
        normalizer_of(Path(config.tokenizer)) if config.tokenizer else CLEAN
    )
    changed = {k: v for k, v in asdict(reading_of(config)).items() if v != getattr(PLAIN, k)}
    changed.pop("max_bad_fraction", None)
    return {
        **({"reading": changed} if changed else {}),
        **({} if chosen == CLEAN else {"normalizer": chosen}),
        **({"views": _views(config)} if config.views > 1 else {}),
        "source": fingerprint(source),
        "vqgan": _encoder(config),
        "tokenizer": digest_folder(Path(config.tokenizer)) if config.tokenizer else tokenizer,
        "text_length": config.text_length,
        "held_out": config.held_out,
    }


def _encoder(config: EncodeConfig) -> str:
    """The VQGAN's digest, and the number of tried codes if the command gives one."""
    digest = digest_folder(Path(config.vqgan))
    return digest if config.tried_codes is None else f"{digest}, tried_codes {config.tried_codes}"


def _views(config: EncodeConfig) -> Json:
    return {"count": config.views, "flips": config.flips}


def reading_of(config: EncodeConfig) -> ReadingConfig:
    """The settings for reading pictures."""
    return ReadingConfig(
        **{field.name: getattr(config, field.name) for field in fields(ReadingConfig)}
    )


def fingerprint(source: Source) -> str:
    """A hash of the source's files: of their content, or of their sizes and times if the source is
    large."""
    stats = [_size_and_time(file) for file in source.files]
    # The fingerprint of a remote file distinguishes its versions.
    is_remote = any(isinstance(file, RemotePath) for file in source.files)
    whole = not is_remote and sum(size for size, _ in stats) <= _HASHED_WHOLE
    hashed = hashlib.blake2b(digest_size=8)
    for file, (size, changed) in zip(source.files, stats, strict=True):
        content = _content(file) if whole else str(changed).encode()
        is_there = isinstance(file, RemotePath)
        name = str(file) if is_there else os.path.relpath(file, source.path)
        hashed.update(f"{name}:{size}:".encode(errors="surrogateescape") + content)
    return hashed.hexdigest()


# An unreadable file is skipped here. data.encode counts and names it later.
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
