"""Measures the cost of each training option relative to the plain update, and of Shampoo relative
to AdamW."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import jax

from benchmarks.updates import Update, Workbench, change, time_in_turns, value_of
from config import Config
from model import transformer
from model.config import ModelConfig
from optim.config import Optimizer

OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "remat": {"model.remat": ("none", "layer", "dots")},
    "layers": {"model.unroll": (0, 1)},
    "norms": {"model.norm": ("rmsnorm", "layernorm")},
    "placement": {"model.placement": ("preln", "normformer", "swinv2")},
    "precision": {
        "training.compute_dtype": ("float32", "bfloat16", "float16"),
        "training.param_dtype": ("float32", "bfloat16"),
        "training.matmul_precision": ("default", "highest"),
    },
    "observables": {"training.norms_every": (0, 1), "training.on_spike": ("off", "skip")},
    "looks": {"training.observe": ("off", "economy", "business", "full")},
    "average": {"optim.ema_decay": (0.0, 0.999)},
    "accumulation": {"training.accumulation_steps": (1, 4)},
    "noise": {"loss.caption_dropout": (0.0, 0.1), "loss.token_noise": (0.0, 0.3)},
    "optimizers": {"optim.name": tuple(o for o in get_args(Optimizer) if o != "shampoo")},
}
"""Name of an option → the settings that it times. The plain update has one value of each
setting."""


@dataclass(frozen=True)
class Row:
    """An option compared with the plain update in the same rounds."""

    option: str
    ratio: float
    """Median of the rounds' ratios."""
    spread: float
    """Half of the ratios' interquartile range."""
    seconds: float
    """Median."""
    compiling_seconds: float
    temporary_bytes: int
    """Activations and gradients, as compiled."""
    optimizer_bytes: int


@dataclass(frozen=True)
class ShampooRow:
    """Shampoo compared with AdamW on one model in the same rounds."""

    parameters: int
    dim: int
    adamw_seconds: float
    seconds: float
    """Mean over `roots_every` updates."""
    seconds_without_roots: float
    seconds_with_roots: float
    roots_share: float
    """Share of Shampoo's time spent on roots."""
    ratio: float
    """Mean time of Shampoo's updates divided by the mean of AdamW's."""
    adamw_bytes: int
    optimizer_bytes: int


def measure_options(
    plain: Update, names: Sequence[str], bench: Workbench, rounds: int
) -> Iterator[Row | str]:
    """A row for each value that differs from the plain update's, or a line with the reason why it
    cannot be measured; and a row of the plain update against itself, which shows the noise."""
    first, again = time_in_turns([plain, plain], rounds)
    yield make_row("plain, again", plain, again, first)
    for name in names:
        updates: dict[str, Update] = {}
        for key, values in OPTIONS[name].items():
            for value in values:
                if value == value_of(plain.config, key):
                    continue
                try:
                    updates[f"{key}={value}"] = _try(choose(plain.config, key, value), bench)
                except (ValueError, jax.errors.JaxRuntimeError) as error:
                    yield f"{key}={value}: {' '.join(str(error).split())[:200]}"
        first, *others = time_in_turns([plain, *updates.values()], rounds)
        for (label, update), times in zip(updates.items(), others, strict=True):
            yield make_row(label, update, times, first)
        bench.keep_only(plain)


def choose(config: Config, key: str, value: object) -> Config:
    """The configuration with the option. Raises ValueError if it conflicts with other settings."""
    if key == "training.accumulation_steps":
        config = change(config, "training.micro_batch_size", 0)  # it would override the option
    if key == "training.observe":
        config = change(
            config, "training.observe_every", 1
        )  # else most rounds would compute no looks
    return change(config, key, value)


def make_row(
    label: str, update: Update, times: Sequence[float], plain_times: Sequence[float]
) -> Row:
    """The row of an update, from the seconds of its rounds and of the plain update's."""
    ratios = [time / plain for time, plain in zip(times, plain_times, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Row(
        label,
        statistics.median(ratios),
        (high - low) / 2,
        statistics.median(times),
        update.compiling_seconds,
        update.temporary_bytes,
        update.optimizer_bytes,
    )


def _try(config: Config, bench: Workbench) -> Update:
    """The compiled update, after one call. Raises JaxRuntimeError if memory does not suffice."""
    update = Update(config, bench)
    update()
    return update


def measure_shampoo(config: Config, bench: Workbench, periods: int) -> ShampooRow:
    """Time updates of AdamW and Shampoo in turns, for `periods` · `roots_every` updates."""
    # A skipped update would not count in Shampoo's state, and the roots would differ.
    config = change(config, "training.on_spike", "off")
    adamw, shampoo = (
        _try(change(config, "optim.name", name), bench) for name in ("adamw", "shampoo")
    )
    every = config.optim.shampoo.roots_every
    first = shampoo.finished + every
    ours, theirs = time_in_turns([adamw, shampoo], periods * every, warm_up=every)
    with_roots = [t for number, t in enumerate(theirs, first) if number % every == 0]
    without = [t for number, t in enumerate(theirs, first) if number % every]
    seconds = statistics.fmean(theirs)
    rare, common = statistics.median(with_roots), statistics.median(without or with_roots)
    return ShampooRow(
        transformer.count_params(config.model),
        config.model.dim,
        statistics.fmean(ours),
        seconds,
        common,
        rare,
        max(rare - common, 0.0) / every / seconds,
        seconds / statistics.fmean(ours),
        adamw.optimizer_bytes,
        shampoo.optimizer_bytes,
    )


def halve(model: ModelConfig) -> ModelConfig:
    """The model with half the width. Raises ValueError if half the width does not suit its
    heads."""
    return replace(
        model,
        dim=model.dim // 2,
        mlp_dim=max(model.mlp_dim // 2, 1),
        decoder_mlp_dim=model.decoder_mlp_dim // 2,
    )
