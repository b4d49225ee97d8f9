"""Make a release folder of a checkpoint: weights, tokenizer and VQGAN, enough to draw anywhere.

python -m release --checkpoint runs/mine --out releases/mine
"""

import runtime

runtime.prepare()

import sys
from dataclasses import dataclass
from pathlib import Path

from config import run
from copying import copy_folder
from drawing import open_checkpoint
from files import new_folder
from model import pretrained
from weights.arrays import Dtype


@dataclass(frozen=True)
class ReleaseConfig:
    """Which checkpoint becomes a release folder."""

    checkpoint: str
    """RUN, RUN/checkpoints/STEP, or another release folder."""
    out: str
    """New folder for config.json, model.safetensors, tokenizer/ and vqgan/."""
    dtype: Dtype = "float16"
    """Precision of the stored weights: float16 halves the file; computing stays in float32."""


def release(config: ReleaseConfig) -> None:
    """Write a release folder, whole or not at all. Raises ValueError when `out` is taken."""
    out = Path(config.out)
    with new_folder(out) as folder:
        found = open_checkpoint(config.checkpoint)
        pretrained.save(
            folder, found.model, found.sampling, found.params, config.dtype, found.origin
        )
        for name in ("tokenizer", "vqgan"):
            copy_folder(found.folder / name, folder / name, found.folder)
    step = "" if found.step is None else f" at step {found.step}"
    print(f"{out}: a release of {config.checkpoint}{step}", file=sys.stderr)


if __name__ == "__main__":
    run(release, ReleaseConfig, prog="python -m release", about=__doc__ or "")
