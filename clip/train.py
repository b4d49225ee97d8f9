"""Train a small CLIP on token records, which ranks drawn pictures.

python -m clip.train --data.records=records/mine --output_dir=runs/clip
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import runtime

runtime.prepare()

from training import signals

if __name__ == "__main__":
    signals.leave_early()

from clip.recipe import ClipRunConfig, make_recipe
from command_line.parser import run
from config import from_yaml
from training.session import train

FIRST_IN_HELP = (
    *("config", "output_dir", "data.records", "training.steps", "training.batch_size"),
    *("optim.learning_rate", "model.dim", "model.depth", "model.patch_size"),
)
"""Settings that --help begins with."""


def main(config: ClipRunConfig) -> None:
    """Start a run, or resume it. At its end, RUN/clip is a CLIP for generate.py --clip=RUN."""
    train(config, make_recipe, from_yaml)


if __name__ == "__main__":
    run(main, ClipRunConfig, prog="python -m clip.train", about=__doc__ or "", first=FIRST_IN_HELP)
