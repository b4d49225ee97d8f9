"""Make a release folder from a checkpoint: all that is needed to draw on another machine.

python -m release --checkpoint runs/mine --out releases/mine --licence "CC BY 4.0"
"""

import runtime

runtime.prepare()

import sys
from dataclasses import dataclass
from pathlib import Path

from clip.weights import CLIP_FOLDER
from command_line.parser import run
from common.copying import copy_folder
from common.files import new_folder
from data.encoding.examples_table import EXAMPLES_FILE, write_examples
from data.records import open_records
from drawing.opening import Checkpoint, open_checkpoint
from drawing.prompts import CAPTIONS_FILE, known_captions
from model import pretrained
from release_card import CARD_FILE, write_card
from weights.arrays import Dtype
from weights.checksums import write_sums


@dataclass(frozen=True)
class ReleaseConfig:
    """The checkpoint, and the release folder to make of it."""

    checkpoint: str
    """RUN, RUN/checkpoints/STEP, or another release folder."""
    out: str
    """New folder for config.json, model.safetensors, tokenizer/, vqgan/, a card and SHA256SUMS."""
    dtype: Dtype = "float16"
    """Precision of the stored weights: float16 halves the file; computing stays in float32."""
    captions: bool = False
    """Also write the distinct training captions into captions.txt. generate.py uses them to say
    which words the model knows."""
    examples: bool = False
    """Also write the training examples, captions and image tokens, into examples.parquet, for
    python -m data.encoded: who trains the model further can mix them in."""
    licence: str = ""
    """Licence of the pictures and captions that it was trained on, for the card; default: what the
    records say of each picture."""
    attribution: str = ""
    """Whose pictures they are, for the card."""
    figures: str = ""
    """File with what `python -m evaluate RUN --json` printed, for the card; default: the last
    held-out losses."""


def release(config: ReleaseConfig) -> None:
    """Write a release folder, atomically. Raises ValueError if `out` exists."""
    out = Path(config.out)
    with new_folder(out) as folder:
        checkpoint = open_checkpoint(config.checkpoint)
        pretrained.save(
            folder,
            checkpoint.model,
            checkpoint.sampling,
            checkpoint.params,
            config.dtype,
            checkpoint.origin,
        )
        for name in ("tokenizer", "vqgan"):
            copy_folder(checkpoint.folder / name, folder / name, checkpoint.folder)
        if (checkpoint.folder / CLIP_FOLDER).is_dir():
            copy_folder(checkpoint.folder / CLIP_FOLDER, folder / CLIP_FOLDER, checkpoint.folder)
        if config.captions:
            _write_captions(checkpoint, folder / CAPTIONS_FILE)
        if config.examples:
            _write_examples(checkpoint, folder / EXAMPLES_FILE)
        figures = Path(config.figures) if config.figures else None
        has_licence = write_card(
            folder, out.absolute().name, checkpoint, config.licence, config.attribution, figures
        )
        write_sums(folder)
    open_checkpoint(out)  # it loads back
    if not has_licence:
        print(
            f"warning: {out / CARD_FILE} does not say whose data it was trained on: add --licence "
            "and --attribution",
            file=sys.stderr,
        )
    step = "" if checkpoint.step is None else f" at step {checkpoint.step}"
    print(f"{out}: a release of {config.checkpoint}{step}", file=sys.stderr)


def _write_captions(checkpoint: Checkpoint, path: Path) -> None:
    """Write captions.txt. Raises ValueError if the captions are unknown."""
    captions = known_captions(checkpoint.folder, checkpoint.all_records)
    if captions is None:
        raise ValueError(
            f"the training captions of {checkpoint.folder} are not known: its token records "
            f"({checkpoint.records}) are gone, too large or without a tokenizer.json; omit "
            "--captions"
        )
    lines = [" ".join(caption.split()) for caption in captions]
    path.write_text("".join(f"{line}\n" for line in lines if line), encoding="utf-8")


def _write_examples(checkpoint: Checkpoint, path: Path) -> None:
    """Write examples.parquet. Raises ValueError if the token records are missing."""
    if checkpoint.records is None:
        raise ValueError(f"{checkpoint.folder} does not know its token records; omit --examples")
    write_examples(open_records(checkpoint.records), path)


if __name__ == "__main__":
    run(release, ReleaseConfig, prog="python -m release", about=__doc__ or "")
