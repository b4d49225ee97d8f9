"""Encode captioned pictures as token records, which train.py reads.

python -m data.encode --source FOLDER_OR_TARS --out records/mine

Finished parts are stored in OUT.parts, so that the same command resumes after a kill or a full
disk. All devices of this machine encode. In several processes, started as for train.py, each
encodes its share into one folder on a common disk. The records are the same bytes in any case.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import contextlib
import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import clone
from common.files import check_free
from data.encoding.config import OF_CAPTIONS, EncodeConfig, check_settings, describe, reading_of
from data.encoding.joining import CaptionOptions, join_shards
from data.encoding.progress import Progress
from data.encoding.reuse import open_known
from data.encoding.shards import ShardFolder, open_shards
from data.encoding.tokenise import PictureEncoder, PictureOptions, encode_shards
from data.pictures.views import Views
from data.records import open_records
from data.sources import open_source
from data.stored.folders import holds
from data.stored.records_json import FORMAT, MARKER
from data.text.captions import open_captions
from data.text.encoder_tokenizers import check_beside

FIRST_IN_HELP = (
    *("source", "out", "vqgan", "tokenizer", "captions", "caption_column", "kind", "held_out"),
    *("fit", "text_length"),
)
"""Settings that --help begins with."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHOWN = 6
"""Captions from names that are printed."""
_WAIT = 0.5  # seconds between two checks of other processes' shards


def main(config: EncodeConfig) -> None:
    """Encode, unless the records are finished; print the number of examples in each split."""
    from training.config import ParallelConfig
    from training.devices import agreement, peers, processes

    config = clone.with_found(config, "vqgan", "tokenizer")
    check_settings(config)
    processes.join(ParallelConfig(**vars(config.parallel)), peers.end_after_loss)
    with peers.watch_peers(), contextlib.ExitStack() as stack:
        agreement.check_start(config)
        job = agreement.call_in_all(lambda: _Job(config))
        agreement.check({name: json.dumps(value) for name, value in job.recipe.items()})
        if processes.from_process_0(lambda: job.open(stack)):
            print(f"{job.out} is finished already: {_counts(job.out)}")
        else:
            _encode(job)


def _encode(job: "_Job") -> None:
    """Encode this process's shards; then process 0 joins all shards."""
    import jax

    number, count = jax.process_index(), jax.process_count()
    encoder = open_encoder(Path(job.config.vqgan), job.config.tried_codes)
    shards = job.shards
    progress = Progress(str(job.out), shards.total, shards.num_done(), is_shown=number == 0)
    with _saying_what_remains(shards), contextlib.closing(progress):
        own_shards = range(number, shards.count, count)
        encode_shards(job.source, encoder, job.pictures, shards, own_shards, progress)
        if number:
            while not (job.out / MARKER).is_file():
                time.sleep(_WAIT)
            return
        while count > 1 and (done := shards.num_done()) < shards.total:
            progress.reach(done)
            time.sleep(_WAIT)
        progress.close()
        for oddity in job.join(encoder.codebook_size):
            print(f"warning: {oddity}", file=sys.stderr)
    shards.remove()
    print(f"{job.out}: {_counts(job.out)}")
    if job.config.captions != "beside":
        print(f"captions such as: {', '.join(open_records(job.out).some_captions(_SHOWN))}")


@contextlib.contextmanager
def _saying_what_remains(shards: ShardFolder) -> Iterator[None]:
    """A context that adds to an error or interrupt how the encoding is resumed."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        more = f"{error.strerror}; make room, and the same command resumes from {_done(shards)}"
        raise OSError(error.errno, more, error.filename) from None
    except KeyboardInterrupt:
        print(f"stopped; the same command resumes from {_done(shards)}", file=sys.stderr)
        raise


def _done(shards: ShardFolder) -> str:
    return f"{shards.num_done():,} of {shards.total:,} pictures"


class _Job:
    """One encoding: the source, the settings, and the folder of its shards."""

    def __init__(self, config: EncodeConfig) -> None:
        self.config, self.out = config, Path(config.out)
        reading = reading_of(config)
        self.source = open_source(config.source, config=reading)
        self.recipe = describe(config, self.source)
        known: Any = {}
        if config.reuse is not None:
            vqgan = self.recipe["vqgan"]
            known = open_known(Path(config.reuse), vqgan, config.views, config.flips)
        views = Views(config.views, config.flips)
        self.pictures = PictureOptions(config.held_out, reading, views, known)
        folder = self.out.with_name(f"{self.out.name}.parts")
        self.shards = ShardFolder(folder, len(self.source), config.shard_size)

    def open(self, stack: contextlib.ExitStack) -> bool:
        """True if the records are finished already. Otherwise make the folder of the shards, and
        lock it against other commands until `stack` is closed.

        Raises:
            ValueError: `out` or the folder of shards holds something else, or is in use.
        """
        from training.saved.runs import sole_user

        out, shards = self.out, self.shards
        if holds(out, MARKER, {"format": FORMAT, "recipe": self.recipe}):
            shards.remove()  # left by a process that was killed at its end
            return True
        check_same(out, self.recipe)
        check_free(out)
        if self.config.tokenizer:  # raises before pictures are encoded
            folder = Path(self.config.tokenizer)
            tokenizer = open_captions(folder, self.config.normalizer)
            check_beside(folder, tokenizer, self.config.text_length)
        print(self.source.describe(), flush=True)
        shards.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(sole_user(shards.path, "the parts of --out in"))
        plan = {k: v for k, v in self.recipe.items() if k not in OF_CAPTIONS}
        open_shards(shards, plan)
        return False

    def join(self, codebook_size: int) -> list[str]:
        """Write the records, and return warnings."""
        config = self.config
        return join_shards(
            self.source,
            self.shards,
            CaptionOptions(
                Path(config.tokenizer) if config.tokenizer else None,
                config.vocab_size,
                config.text_length,
                config.normalizer,
            ),
            self.pictures,
            self.out,
            config.source,
            codebook_size=codebook_size,
            vqgan_folder=Path(config.vqgan),
            recipe=self.recipe,
        )


def check_same(out: Path, recipe: dict[str, object]) -> None:
    """Raise ValueError if `out` holds records of another source or of other settings; the message
    names the differences."""
    if not (out / MARKER).is_file():
        return
    records = open_records(out)
    was = records.about.get("recipe")
    was = was if isinstance(was, dict) else {}
    differing = sorted(name for name in {*was, *recipe} if was.get(name) != recipe.get(name))
    changed = ", ".join(
        "the source's files" if name == "source" else f"{name} (was {was.get(name)}, now {now})"
        for name, now in ((name, recipe.get(name)) for name in differing)
    )
    more = ""
    if records.pixel_hashes is not None and not {"vqgan", "views", "reading"} & set(differing):
        more = f"; with --reuse {out} the pictures that it has are not encoded again"
        more += "" if "tokenizer" in differing else f" (--tokenizer {out / 'tokenizer'}: its words)"
    raise ValueError(
        f"{out} holds something else: {_counts(out)}, and since then {changed or 'its format'} "
        f"changed; encode into a new folder with --out {out}-2 and train there with "
        f"--data.records={out}-2, or remove {out} first{more}"
    )


def open_encoder(folder: Path, tried_codes: int | None) -> PictureEncoder:
    """The VQGAN's encoder, on all devices of this process."""
    from vqgan import encoder  # which imports jax

    return encoder.open_encoder(folder, tried_codes=tried_codes)


def _counts(out: Path) -> str:
    records = open_records(out)
    parts = (f"{count:,} {split}" for split, count in records.about["counts"].items())
    return f"{len(records):,} pictures ({', '.join(parts)})"


if __name__ == "__main__":
    import runtime
    from command_line.parser import run

    runtime.prepare()
    run(main, EncodeConfig, prog="python -m data.encode", about=__doc__ or "", first=FIRST_IN_HELP)
