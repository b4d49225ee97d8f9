"""Train an autoencoder with a codebook on pictures.

python -m vqgan.train --config presets/vqgan_openmoji.yaml --data.source=pictures/all
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import runtime

runtime.prepare()

from training import signals

if __name__ == "__main__":
    signals.leave_early()

from command_line.parser import run
from config import from_yaml
from training.session import train
from vqgan.recipe import make_recipe
from vqgan.run_config import VQGANRunConfig

FIRST_IN_HELP = (
    *("config", "output_dir", "data.source", "training.steps", "training.batch_size"),
    *("optim.learning_rate", "init_from", "model.image_size", "model.codebook_size"),
    "tracker.wandb",
)
"""Settings that --help begins with."""


def main(config: VQGANRunConfig) -> None:
    """Start a run, or resume it. At its end, RUN/vqgan is a release folder."""
    train(config, make_recipe, from_yaml)


if __name__ == "__main__":
    run(
        main,
        VQGANRunConfig,
        prog="python -m vqgan.train",
        about=__doc__ or "",
        first=FIRST_IN_HELP,
    )
