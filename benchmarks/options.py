"""The cost of each option of training against the plain update, and of Shampoo against AdamW."""

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
"""Settings by the word that chooses them. The plain update has one of each setting's values."""


@dataclass(frozen=True)
class Row:
    """An option and the plain update, in the same rounds."""

    option: str
    ratio: float
    """Median of the rounds' ratios."""
    spread: float
    """Half of the span of the middle half of the ratios."""
    seconds: float
    """Median."""
    compiling_seconds: float
    temporary_bytes: int
    """Activations and gradients, as compiled."""
    optimizer_bytes: int


@dataclass(frozen=True)
class ShampooRow:
    """Shampoo and AdamW on a model, in the same rounds."""

    parameters: int
    dim: int
    adamw_seconds: float
    seconds: float
    """Mean over a period of the roots."""
    seconds_without_roots: float
    seconds_with_roots: float
    roots_share: float
    """Share of all time."""
    ratio: float
    """Mean of Shampoo's updates over mean of AdamW's."""
    adamw_bytes: int
    optimizer_bytes: int


def measure_options(
    plain: Update, names: Sequence[str], bench: Workbench, rounds: int
) -> Iterator[Row | str]:
    """A row for each value that differs from the plain update's, or a line that says why there is
    none; and a row of the plain update against itself, which shows the noise."""
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
    """The configuration with the option. Raises ValueError if it does not go with the others."""
    if key == "training.accumulation_steps":
        config = change(config, "training.micro_batch_size", 0)  # else that would decide
    if key == "training.observe":
        config = change(
            config, "training.observe_every", 1
        )  # else most rounds would look at nothing
    return change(config, key, value)


def make_row(
    label: str, update: Update, times: Sequence[float], plain_times: Sequence[float]
) -> Row:
    """An update's row, of its rounds and the plain one's."""
    ratios = [own / plain for own, plain in zip(times, plain_times, strict=True)]
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
    """An update that has been made once. Raises JaxRuntimeError if memory does not suffice."""
    update = Update(config, bench)
    update()
    return update


def measure_shampoo(config: Config, bench: Workbench, periods: int) -> ShampooRow:
    """Updates of AdamW and Shampoo in turns, over `periods` periods of the roots."""
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
    """The model with half the width. Raises ValueError if its heads do not allow that."""
    return replace(
        model,
        dim=model.dim // 2,
        mlp_dim=max(model.mlp_dim // 2, 1),
        decoder_mlp_dim=model.decoder_mlp_dim // 2,
    )
