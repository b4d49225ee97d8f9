"""Train the text-to-image transformer on token records.

python train.py --config presets/quickstart.yaml --output_dir=runs/mine
"""

import runtime

runtime.prepare()

from training import signals

if __name__ == "__main__":
    signals.leave_early()

from command_line.parser import run
from config import Config, from_yaml
from recipe import make_recipe
from starting.text_encoder import describe_changes, with_text_encoder
from training.session import train

FIRST_IN_HELP = (
    "config",
    "output_dir",
    "data.records",
    "training.steps",
    "training.batch_size",
    "training.micro_batch_size",
    "optim.learning_rate",
    "init_from",
    "grids.prompts",
    "tracker.wandb",
)


def main(config: Config) -> None:
    """Start a run, or resume it."""
    complete = with_text_encoder(config)
    if changed := describe_changes(config.model, complete.model):
        print(f"text_encoder {config.text_encoder} sets {changed}", flush=True)
    train(complete, make_recipe, from_yaml)


if __name__ == "__main__":
    run(main, Config, prog="train.py", about=__doc__ or "", first=FIRST_IN_HELP)
