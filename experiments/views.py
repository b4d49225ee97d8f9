"""Do views (shifted and closer crops) help when there are only a few hundred pictures? Compares the
held-out losses of runs that differ only in their number of views.

    python -m experiments.views pictures/mine --views 1 4 16 --seeds 0 1 --steps 600

For each number of views the pictures are encoded once, with the same tokenizer and held-out
pictures; then presets/own.yaml is trained on them, from random weights, at 64 × 64 pixels, with
the noise that suits them. The table has each run's lowest held-out loss, the update at which it was
reached, and the last loss, in nats per image token.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOSS = "eval/held_out/loss"


@dataclass(frozen=True)
class Run:
    """The held-out losses of one run."""

    views: int
    seed: int
    losses: dict[int, float]
    """Number of updates → loss."""

    @property
    def best(self) -> int:
        """The update with the lowest loss."""
        return min(self.losses, key=lambda step: self.losses[step])


def main() -> None:
    """Encode the pictures, train the runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--held_out", type=float, default=0.15)
    parser.add_argument("--out", type=Path, default=Path("runs/views"))
    parser.add_argument("more", nargs="*", help="further flags of train.py, after --")
    arguments = parser.parse_args()
    runs = []
    for views in arguments.views:
        records = arguments.out / f"records{views}"
        call(
            *("-m", "data.encode", f"--source={arguments.source}", f"--out={records}"),
            *(f"--views={views}", f"--held_out={arguments.held_out}"),
        )
        for seed in arguments.seeds:
            run = arguments.out / f"views{views}_seed{seed}"
            call(
                *("train.py", "--config=presets/own.yaml", "--model.grid_size=8"),
                *(
                    "--loss.token_noise=0.5",
                    "--loss.caption_only=0.25",
                    f"--data.records={records}",
                ),
                *(f"--output_dir={run}", f"--seed={seed}", "--training.epochs=0"),
                *(
                    f"--training.steps={arguments.steps}",
                    "--choose_sampling=false",
                    "--grids.every=0",
                ),
                f"--training.eval_every={max(arguments.steps // 20, 1)}",
                *arguments.more,
            )
            runs.append(Run(views, seed, read_losses(run / "metrics.jsonl")))
    print("\n".join(table(runs)))


def call(*words: str) -> None:
    """Run a command of this repository. A command that was stopped resumes."""
    subprocess.run([sys.executable, *words], check=True)


def read_losses(path: Path) -> dict[int, float]:
    """Number of updates → held-out loss, from a run's metrics.jsonl."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return {row["step"]: row[LOSS] for row in rows if LOSS in row}


def table(runs: Sequence[Run]) -> list[str]:
    """The lines of the table: a row for each number of views, with means over its seeds."""
    lines = ["| views | lowest held-out loss | at update | last | runs |", "|" + " ---: |" * 5]
    for views in sorted({run.views for run in runs}):
        some = [run for run in runs if run.views == views]
        lowest = statistics.mean(run.losses[run.best] for run in some)
        last = statistics.mean(run.losses[max(run.losses)] for run in some)
        places = ", ".join(f"{run.best:,}" for run in some)
        each = ", ".join(f"{run.losses[run.best]:.3f}" for run in some)
        lines.append(f"| {views} | {lowest:.3f} ({each}) | {places} | {last:.3f} | {len(some)} |")
    return lines


if __name__ == "__main__":
    main()
