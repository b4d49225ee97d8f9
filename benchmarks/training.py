"""How long does a training update take, and what does each option cost? Prints tables.

python -m benchmarks.training
python -m benchmarks.training --preset presets/dalle_mini.yaml --settings training.batch_size=64

Without a preset the model has 12 M parameters, batches of 8, 64 text and 256 image tokens.
Utilisation is the model's FLOPs per second divided by those of the fastest matrix product on the
same device in the same run. The backward pass counts twice the forward pass; recomputation counts
nothing. Ratios are medians over rounds; each round makes every update once. On a single core
(`taskset -c 0`) all times are CPU time.
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import runtime

runtime.prepare()

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import jax

from benchmarks.machine import measure_products, peak_memory
from benchmarks.options import (
    OPTIONS,
    Row,
    ShampooRow,
    halve,
    make_row,
    measure_options,
    measure_shampoo,
)
from benchmarks.records import make_records, measure_reading, open_training
from benchmarks.sampling import small_model
from benchmarks.updates import Update, Workbench, change, time_in_turns
from command_line.parser import parse_config, run
from common.files import write_text
from common.settings import check_least, to_tree
from config import Config
from model import transformer
from recipe import count_costs
from training.devices.devices import find_devices

CHOICES = (*OPTIONS, "shampoo", "data")
WANTED = 20
"""Reading samples should be faster than the step by this factor."""


@dataclass(frozen=True)
class TrainingBenchmark:
    """The configuration to train, and the options to time."""

    preset: str = ""
    """A YAML of train.py, such as presets/dalle_mini.yaml. Empty = a small model."""
    settings: tuple[str, ...] = field(
        default=(),
        metadata={
            "nargs": "*",
            "help": "Further settings of train.py, such as training.batch_size=64 "
            "training.compute_dtype=bfloat16.",
        },
    )
    """Settings on top of the preset's."""
    options: tuple[str, ...] = field(
        default=CHOICES,
        metadata={
            "nargs": "*",
            "help": f"The options to time, out of {' '.join(CHOICES)}; default: all. Without a "
            "value only the plain update is timed.",
        },
    )
    """The options to time."""
    rounds: int = 7
    """Timed updates of each option."""
    quick: bool = False
    """Make few updates, to see that everything runs; the figures are rough."""
    out: str = ""
    """A JSON file to write all figures to; empty = none."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.options if name not in CHOICES]
        if unknown:
            raise ValueError(f"no option {unknown[0]!r}; there are: {', '.join(CHOICES)}")
        check_least(self, "", 1, "rounds")


@dataclass(frozen=True)
class Plain:
    """The update without options."""

    parameters: int
    batch_size: int
    compute_dtype: str
    devices: str
    least_seconds: float
    median_seconds: float
    compiling_seconds: float
    tokens_per_second: float
    """Image tokens per second, from the median time."""
    model_flops: float
    """The model's FLOPs per update."""
    product_flops: float
    """FLOPs per second of all devices in the fastest matrix product."""
    product: tuple[int, int, int]
    """The rows, inner size and columns of that product."""
    weights_bytes: int
    optimizer_bytes: int
    argument_bytes: int
    """Bytes of state and batch, from the compiled program."""
    temporary_bytes: int
    """Bytes of activations and gradients, from the compiled program."""
    copied_bytes: int
    """Bytes of the new state that do not reuse the old state's memory."""
    measured_bytes: int
    """Peak bytes during an update."""

    @property
    def utilisation(self) -> float:
        """The model's FLOPs per second divided by the fastest product's, from the median time."""
        return self.model_flops / self.median_seconds / self.product_flops


def main(benchmark: TrainingBenchmark) -> None:
    """Measure the plain update first, then the chosen options."""
    config = read_config(benchmark)
    devices = find_devices(config.parallel)
    rounds = 2 if benchmark.quick else benchmark.rounds
    with tempfile.TemporaryDirectory() as folder:
        count = 256 if benchmark.quick else 8192
        records = make_records(Path(folder) / "records", config.model, count)
        batches = open_training(records, config.training.batch_size)
        bench = Workbench(devices, [batches.at(step) for step in range(4)])
        update = begin(config, bench)
        plain = measure_plain(update, bench, rounds)
        print_plain(plain)
        results: dict[str, Any] = {"plain": dataclasses.asdict(plain)}
        results["plain"]["utilisation"] = plain.utilisation
        chosen = [name for name in OPTIONS if name in benchmark.options]
        if chosen:
            plain_row = make_row("plain", update, [plain.median_seconds], [plain.median_seconds])
            others = measure_options(update, chosen, bench, rounds)
            results["options"] = as_trees(print_options(chain([plain_row], others)))
        if "shampoo" in benchmark.options:
            results["shampoo"] = as_trees(print_shampoo(config, bench, benchmark.quick))
        if "data" in benchmark.options:
            pace = measure_reading(batches, plain.batch_size, 0.1 if benchmark.quick else 2.0)
            times = print_reading(pace, plain)
            results["data"] = {"samples_per_second": pace, "times_update": times}
    if benchmark.out:
        about = {"jax": jax.__version__, "config": to_tree(config)}
        write_text(Path(benchmark.out), json.dumps(results | about, indent=1) + "\n")


def as_trees(rows: Iterable[Row] | Iterable[ShampooRow]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) for row in rows]


def read_config(benchmark: TrainingBenchmark) -> Config:
    """The plain configuration. Raises ValueError naming an unknown setting."""
    flags = [f"--{setting}" for setting in benchmark.settings]
    if benchmark.preset:
        return parse_config(Config, [f"--config={benchmark.preset}", *flags])
    sizes = {k: v for k, v in to_tree(small_model()).items() if not isinstance(v, dict)}
    small = [f"--model.{name}={value}" for name, value in sizes.items()]
    small += ["--training.batch_size=8", "--loss.caption_dropout=0"]
    given = {flag.partition("=")[0] for flag in flags}
    kept = [flag for flag in small if flag.partition("=")[0] not in given]
    return parse_config(Config, [*kept, *flags])


def begin(config: Config, bench: Workbench) -> Update:
    """The compiled plain update, after one call. Raises ValueError if memory does not suffice."""
    try:
        update = Update(config, bench)
        update()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"{config.training.batch_size} examples an update do not fit here; take a smaller "
            f"training.batch_size or more accumulation_steps: {' '.join(str(error).split())[:300]}"
        ) from None
    return update


def measure_plain(update: Update, bench: Workbench, rounds: int) -> Plain:
    """The plain update's figures. Memory is measured first, before other updates allocate some."""
    config, devices = update.config, bench.devices
    model = transformer.build(config.model, config.training.compute_dtype)
    (times,) = time_in_turns([update], rounds)
    measured = peak_memory(update)
    product_flops, product = measure_products(config.training.compute_dtype, rounds)
    (more,) = time_in_turns([update], rounds)
    shares = (
        1 if jax.default_backend() == "cpu" else len(devices)
    )  # virtual CPU devices share the CPU
    size, median = config.training.batch_size, statistics.median(times + more)
    return Plain(
        parameters=transformer.count_params(config.model),
        batch_size=size,
        compute_dtype=config.training.compute_dtype,
        devices=devices.describe(),
        least_seconds=min(times + more),
        median_seconds=median,
        compiling_seconds=update.compiling_seconds,
        tokens_per_second=size * config.model.image_length / median,
        model_flops=size * count_costs(model, config.model, devices).flops,
        product_flops=shares * product_flops,
        product=product,
        weights_bytes=update.params_bytes,
        optimizer_bytes=update.optimizer_bytes,
        argument_bytes=update.argument_bytes,
        temporary_bytes=update.temporary_bytes,
        copied_bytes=update.copied_bytes,
        measured_bytes=measured,
    )


def print_plain(plain: Plain) -> None:
    """Print one figure per row."""
    rows, inner, columns = plain.product
    whole = 2 * plain.weights_bytes + plain.optimizer_bytes
    compiled = plain.argument_bytes + plain.temporary_bytes + plain.copied_bytes
    print(f"{plain.parameters:,} parameters, batches of {plain.batch_size}, {plain.compute_dtype}")
    print(plain.devices)
    print_head("plain update", "", "of it")
    for cells in (
        ("image tokens/s", f"{plain.tokens_per_second:.0f}", ""),
        ("update, s", f"{plain.median_seconds:.4f}", f"least {plain.least_seconds:.4f}"),
        ("compiling, s", f"{plain.compiling_seconds:.1f}", ""),
        ("model's GFLOP an update", f"{plain.model_flops / 1e9:.1f}", ""),
        (
            "fastest product, GFLOP/s",
            f"{plain.product_flops / 1e9:.0f}",
            f"{rows} × {inner} × {columns}",
        ),
        ("utilisation", f"{plain.utilisation:.1%}", ""),
        (
            "memory by formula, MB",
            megabytes(whole),
            f"weights and gradients {megabytes(plain.weights_bytes)} each, optimizer "
            + megabytes(plain.optimizer_bytes),
        ),
        (
            "memory as compiled, a device, MB",
            megabytes(compiled),
            f"state and batch {megabytes(plain.argument_bytes)}, activations and gradients "
            f"{megabytes(plain.temporary_bytes)}, copies {megabytes(plain.copied_bytes)}",
        ),
        ("memory measured, MB", megabytes(plain.measured_bytes), "at most, in an update"),
    ):
        print_row(*cells)


def print_options(rows: Iterable[Row | str]) -> list[Row]:
    """Print a row for each option as soon as it is measured, then the options that are not possible
    here. Returns the rows."""
    print_head(
        "option", "× plain", "±", "update, s", "compiling, s", "activations, MB", "optimizer, MB"
    )
    measured, missing = [], []
    for row in rows:
        if isinstance(row, str):
            missing.append(row)
            continue
        measured.append(row)
        print_row(
            row.option,
            f"{row.ratio:.2f}",
            f"{row.spread:.2f}",
            f"{row.seconds:.4f}",
            f"{row.compiling_seconds:.1f}",
            megabytes(row.temporary_bytes),
            megabytes(row.optimizer_bytes),
        )
    for line in missing:
        print(f"\nnot possible here: {line}")
    return measured


def print_shampoo(config: Config, bench: Workbench, is_quick: bool) -> list[ShampooRow]:
    """Print and return a row for the model, and one for the model with half the width."""
    if is_quick:
        config = change(config, "optim.shampoo", replace(config.optim.shampoo, roots_every=2))
    print_head(
        "Shampoo",
        "× AdamW",
        "AdamW's update, s",
        "Shampoo's, s",
        "without roots, s",
        "with roots, s",
        f"roots' share, every {config.optim.shampoo.roots_every}",
        "AdamW's state, MB",
        "Shampoo's, MB",
    )
    rows = []
    for model in (config.model, halve(config.model)):
        row = measure_shampoo(replace(config, model=model), bench, 1 if is_quick else 3)
        bench.states.clear()
        rows.append(row)
        print_row(
            f"{row.parameters:,} parameters",
            f"{row.ratio:.2f}",
            f"{row.adamw_seconds:.4f}",
            f"{row.seconds:.4f}",
            f"{row.seconds_without_roots:.4f}",
            f"{row.seconds_with_roots:.4f}",
            f"{row.roots_share:.0%}",
            megabytes(row.adamw_bytes),
            megabytes(row.optimizer_bytes),
        )
    return rows


def print_reading(pace: float, plain: Plain) -> float:
    """Print the speed of reading batches. Returns the factor by which it exceeds the update's."""
    times = pace * plain.median_seconds / plain.batch_size
    print_head("data", "samples/s", "times what the update takes")
    print_row("memory-mapped records, one core", f"{pace:.0f}", f"{times:.0f} (wanted: {WANTED})")
    return times


def print_head(*cells: str) -> None:
    print()
    print_row(*cells)
    print_row("---", *["---:"] * (len(cells) - 1))


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f}"


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # else compiling would take no time
    run(main, TrainingBenchmark, prog="python -m benchmarks.training", about=__doc__ or "")
