"""The rules of a contest between settings, as pure functions of the contest's results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)
RATIO = 4.0
"""AlgoPerf's largest ratio of a performance profile."""
DRAWS = 10_000
"""Resamples of a bootstrap interval."""


@dataclass(frozen=True)
class Result:
    """One run of an entry, as it is logged."""

    entry: str
    kind: str
    """tuning or score"""
    length: int
    """Number of updates of the run. Its learning rate decays over this length."""
    seed: int
    trial: int
    """Number of the trial in the entry's space that gave the settings."""
    value: float
    """The metric after the last update; infinite if the run failed."""
    train_seconds: float
    """Seconds of all updates, without compilation, evaluation and saving. NaN: no times were
    measured."""
    compile_seconds: float
    other_seconds: float
    """Seconds of start, evaluation and saving."""


@dataclass(frozen=True)
class Rules:
    """The rules of a contest that do not change with its entries."""

    target: float
    margin: float
    budget: int
    """Number of tuning trials for each entry and length."""
    is_higher_better: bool = False

    def distance(self, value: float) -> float:
        """The distance to the target; negative behind it."""
        return value - self.target if self.is_higher_better else self.target - value


def halton(number: int, dimension: int) -> float:
    """Entry `number` ≥ 0, in 0..1, of the van der Corput sequence in base PRIMES[dimension]. The
    sequence's first entry, 0, is skipped. Halton 1960."""
    base, rest, scale, point = PRIMES[dimension], number + 1, 1.0, 0.0
    while rest:
        scale /= base
        rest, digit = divmod(rest, base)
        point += scale * digit
    return point


def draw(space: Mapping[str, Mapping[str, Any]], number: int) -> dict[str, Any]:
    """The settings of trial `number` of a space. Each setting has log: [low, high], or
    uniform: [low, high], or values: [...]. With of: 1 a log or uniform value v becomes 1 − v.

    Raises:
        ValueError: a range has another form, or the space has more than 10 settings.
    """
    if len(space) > len(PRIMES):
        raise ValueError(f"a space has at most {len(PRIMES)} settings, not {len(space)}")
    settings = {}
    for dimension, (name, entry) in enumerate(space.items()):
        position = halton(number, dimension)
        if list(entry) == ["values"]:
            settings[name] = entry["values"][int(position * len(entry["values"]))]
            continue
        [scale] = [k for k in ("log", "uniform") if k in entry] or [""]
        low, high = entry.get(scale) or (math.nan, math.nan)
        if set(entry) - {scale, "of"} or not low < high or (scale == "log" and low <= 0):
            raise ValueError(
                f"{name}: {dict(entry)} is neither log: [low, high] with 0 < low < high, nor "
                "uniform: [low, high], nor values: [...]"
            )
        value = low * (high / low) ** position if scale == "log" else low + (high - low) * position
        settings[name] = float(f"{entry['of'] - value if 'of' in entry else value:.6g}")
    return settings


def holds(values: Sequence[float], rules: Rules) -> bool:
    """True if an entry has reached the target: (target − mean) · √n > margin, or with the other
    sign if higher is better. The rule of modded-nanogpt's third track, whose margin is 0.004."""
    mean = float(np.mean(values)) if len(values) else math.inf
    return math.isfinite(mean) and rules.distance(mean) * math.sqrt(len(values)) > rules.margin


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The bootstrap 95 % percentile interval of the mean; NaN for fewer than two values or a value
    that is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    means = rng.choice(np.array(values), (DRAWS, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def best_trial(results: Sequence[Result], length: int, rules: Rules) -> int | None:
    """The trial with the best mean over the tuning seeds at this length; None if no mean is
    finite."""
    values: dict[int, list[float]] = {}
    for result in results:
        if result.kind == "tuning" and result.length == length:
            values.setdefault(result.trial, []).append(result.value)
    finite = {t: float(np.mean(v)) for t, v in values.items() if np.isfinite(np.mean(v))}
    return max(finite, key=lambda trial: rules.distance(finite[trial])) if finite else None


@dataclass(frozen=True)
class Score:
    """The result of one entry."""

    entry: str
    steps: float
    """The shortest length at whose end the entry holds. Infinite if it holds at none; NaN if runs
    are still missing."""
    seconds: float
    """Mean training seconds of the runs of that length."""
    means: Mapping[int, tuple[float, float, float, int]]
    """Length → (mean, lower and upper end of its interval, number of seeds)."""
    compile_seconds: float
    other_seconds: float
    tuned: Mapping[int, tuple[int, int, float]]
    """Length → (number of trials, best trial, its mean over the tuning seeds)."""


def score(
    entry: str, results: Sequence[Result], rules: Rules, lengths: Sequence[int] = ()
) -> Score:
    """The score of one entry. Only runs of kind "score" count. If the target is missed at every
    length, steps and seconds are infinite, or NaN if runs of one of `lengths` are still missing.

    Raises:
        ValueError: a seed is used both for tuning and for the score.
    """
    of_entry = [result for result in results if result.entry == entry]
    scored = [result for result in of_entry if result.kind == "score"]
    if both := {result.seed for result in scored} & {
        result.seed for result in of_entry if result.kind == "tuning"
    }:
        raise ValueError(f"{entry}: seeds {sorted(both)} are used for tuning and for the score")
    means, steps, seconds = {}, math.inf, math.inf
    for length in sorted({result.length for result in scored}):
        runs = [result for result in scored if result.length == length]
        values = [result.value for result in runs]
        means[length] = (float(np.mean(values)), *interval(values), len(values))
        if steps == math.inf and holds(values, rules):
            steps = float(length)
            seconds = float(np.mean([result.train_seconds for result in runs]))
    if steps == math.inf and set(lengths) - set(means):
        steps = seconds = math.nan
    average = lambda name: float(np.mean([getattr(result, name) for result in scored or of_entry]))  # noqa: E731
    times = average("compile_seconds"), average("other_seconds")
    return Score(entry, steps, seconds, means, *times, _tuned(of_entry, rules))


def _tuned(results: Sequence[Result], rules: Rules) -> dict[int, tuple[int, int, float]]:
    """Length → (number of trials, best trial, its mean value), from one entry's tuning runs."""
    tuned = {}
    for length in sorted({result.length for result in results if result.kind == "tuning"}):
        of_length = [
            result for result in results if result.kind == "tuning" and result.length == length
        ]
        if (best := best_trial(of_length, length, rules)) is not None:
            value = float(np.mean([result.value for result in of_length if result.trial == best]))
            tuned[length] = (len({result.trial for result in of_length}), best, value)
    return tuned


def profile_areas(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """AlgoPerf's score of each entry: the area under its performance profile from 1 to RATIO,
    divided by RATIO − 1. `times`: entry → its time on each workload, infinite if it missed the
    target. The profile at τ is the share of workloads on which the entry took at most τ times the
    best time. All scores are NaN if a time was not measured."""
    table = np.array(list(times.values()), np.float64)
    if np.isnan(table).any():
        return dict.fromkeys(times, math.nan)
    best = table.min(0)
    ratios = np.where(np.isfinite(table), table / np.where(np.isfinite(best), best, 1.0), np.inf)
    areas = np.clip(RATIO - ratios, 0.0, RATIO - 1).mean(1) / (RATIO - 1)
    return dict(zip(times, areas.tolist(), strict=True))


def describe(scores: Sequence[Score], rules: Rules) -> str:
    """The rules and the table as Markdown, with the fastest entry first."""
    lengths = sorted({length for score in scores for length in score.means})
    names = ["entry", "steps to target", "seconds", *(f"after {length}" for length in lengths)]
    names += ["compiling, s", "other, s"]
    lines = [
        f"Target {rules.target}, {rules.budget} quasi-random trials of tuning for each entry and "
        "length. Each length has its own learning rate decay. A length is judged only at its end, "
        "which is the same for all seeds. An entry holds if "
        f"({_difference(rules)}) · √n > {rules.margin}. Seeds of tuning do not count. Seconds are "
        "those of the updates; compilation has its own column, and so have start, evaluation and "
        "saving (other). In brackets: 95 % bootstrap interval.",
        "",
        f"| {' | '.join(names)} |",
        "| --- " * len(names) + "|",
    ]
    for score in sorted(scores, key=lambda score: _rank(score, rules)):
        cells = [
            "–"
            if length not in score.means
            else "{:.4f} [{:.4f}, {:.4f}], n {}".format(*score.means[length])
            for length in lengths
        ]
        times = (_shown(score.compile_seconds), _shown(score.other_seconds))
        row = (score.entry, _shown(score.steps), _shown(score.seconds), *cells, *times)
        lines.append(f"| {' | '.join(row)} |")
    head = "| entry | updates | trials | best trial | its value on the tuning seeds |"
    lines += ["", "The tuning, which does not count:", "", head, "| --- " * 5 + "|"]
    for score in scores:
        for length, (trials, best, value) in score.tuned.items():
            lines.append(f"| {score.entry} | {length} | {trials} | {best} | {value:.4f} |")
    return "\n".join(lines) + "\n"


def describe_areas(contests: Mapping[str, Sequence[Score]]) -> str:
    """The areas under the performance profiles of the entries that all contests share, as
    Markdown. `contests`: name → scores."""
    shared = set.intersection(*({score.entry for score in scores} for scores in contests.values()))
    names = [score.entry for score in next(iter(contests.values())) if score.entry in shared]
    tracks = {}
    for track in ("steps", "seconds"):
        times = {
            name: [
                getattr(score, track)
                for scores in contests.values()
                for score in scores
                if score.entry == name
            ]
            for name in names
        }
        tracks[track] = profile_areas(times)
    lines = [
        f"Area under the performance profile over {len(contests)} contests "
        f"({', '.join(contests)}), up to {RATIO:g} times the best; AlgoPerf's score. Fewer than "
        "three contests say little.",
        "",
        "| entry | steps | seconds |",
        "| --- | --- | --- |",
    ]
    for name in sorted(names, key=lambda name: -tracks["steps"][name]):
        areas = " | ".join(_shown(tracks[track][name]) for track in tracks)
        lines.append(f"| {name} | {areas} |")
    return "\n".join(lines) + "\n"


def _difference(rules: Rules) -> str:
    return "mean − target" if rules.is_higher_better else "target − mean"


def _rank(score: Score, rules: Rules) -> tuple[float, float, float, str]:
    """A sort key: fewest updates first, then least time, then the best mean after the longest
    training."""
    mean = score.means[max(score.means)][0] if score.means else math.inf
    last = -rules.distance(mean) if math.isfinite(mean) else math.inf  # of a run that failed
    steps = math.inf if math.isnan(score.steps) else score.steps
    return steps, 0.0 if math.isnan(score.seconds) else score.seconds, last, score.entry


def _shown(number: float) -> str:
    if math.isnan(number):
        return "not measured"
    return "missed" if math.isinf(number) else f"{number:.4g}"
