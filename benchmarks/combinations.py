"""Does every combination of precision, norm, accumulation and optimizer train? Prints a table.

python -m benchmarks.combinations --records records/starter --steps 60
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import json
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from command_line.parser import run

DTYPES = ("float32", "bfloat16", "float16")
NORMS = ("rmsnorm", "layernorm")
ACCUMULATIONS = (1, 4)
LEARNING_RATES = {"adamw": 2e-3, "sgd": 0.3}


@dataclass(frozen=True)
class CombinationsConfig:
    """How long each combination trains."""

    records: str = "records/starter"
    """Token records to train on."""
    steps: int = 60
    """Updates of each of the 24 runs."""


def main(config: CombinationsConfig) -> None:
    """Train each combination with presets/hands.yaml, each in a separate process, and print its
    row."""
    print("| precision | norm | micro-batches | optimizer | loss, start → end | ms per update |")
    print("| --- | --- | ---: | --- | --- | ---: |")
    for dtype, norm, parts, optimizer in product(DTYPES, NORMS, ACCUMULATIONS, LEARNING_RATES):
        rows = _train(config, dtype, norm, parts, optimizer)
        losses = [row["train/loss"] for row in rows]
        end = statistics.mean(losses[-5:])
        pace = statistics.median(row["time/step_ms"] for row in rows[5:])
        print(
            f"| {dtype} | {norm} | {parts} | {optimizer} | {losses[0]:.2f} → {end:.2f} "
            f"| {pace:.0f} |",
            flush=True,
        )


def _train(
    config: CombinationsConfig, dtype: str, norm: str, parts: int, optimizer: str
) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "output_dir": f"{folder}/run",
            "data.records": config.records,
            "training.steps": config.steps,
            "training.compute_dtype": dtype,
            "training.accumulation_steps": parts,
            "model.norm": norm,
            "optim.name": optimizer,
            "optim.learning_rate": LEARNING_RATES[optimizer],
        }
        command = [sys.executable, "train.py", "--config=presets/hands.yaml"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        subprocess.run(command, check=True, capture_output=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    run(main, CombinationsConfig, prog="python -m benchmarks.combinations", about=__doc__ or "")
