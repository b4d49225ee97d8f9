"""A leaderboard: how many updates, and how many seconds, does each entry need to reach a target?

python -m experiments.time_to_target experiments/contests/starter.yaml

A contest fixes data, tokens, architecture and batch. An entry has fixed settings, and a space of
tuned ones. Every run is a line of OUT/NAME/runs.jsonl with its command; the table is made from
these lines only. The same command resumes a stopped contest; --table makes only the table. With
several contests each entry gets AlgoPerf's score, the area under its performance profile.
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import runtime

runtime.prepare()

import dataclasses
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from command_line.parser import run
from common import clone
from common.files import write_bytes
from common.json_files import Json
from experiments.contest import (
    Result,
    Rules,
    Score,
    best_trial,
    describe,
    describe_areas,
    draw,
    score,
)
from experiments.contest_runs import append, check_result, make_run, measured, read_log
from training import exits
from training.saved.runs import sole_user
from training.update.shared import Programs
from trials.one_process import train_here
from weights.yaml_files import read_yaml

LOG, TABLE, AREAS = "runs.jsonl", "table.md", "areas.md"
PROGRAMS = {"train.py": ("train.py",), "vqgan.train": ("-m", "vqgan.train")}
"""Trainer of a contest → the words of its command behind `python`."""
GOALS = ("minimize", "maximize")


class Job(NamedTuple):
    """One run of a contest."""

    entry: str
    kind: str
    """tuning or score"""
    length: int
    """Number of updates."""
    trial: int
    """Number of the draw from the entry's space; −1: no trial has a finite result."""
    seed: int


@dataclass(frozen=True)
class TimeToTargetConfig:
    """The contests, and the folders of their runs."""

    contests: tuple[str, ...] = field(
        default=(), metadata={"nargs": "+", "positional": True, "help": "Contests to run."}
    )
    """YAML files, such as experiments/contests/starter.yaml."""
    out: str = "results/time_to_target"
    """Folder of results. The log and table of a contest are in OUT/NAME."""
    runs: str = "runs/time_to_target"
    """Folder of runs. The runs of a contest are in RUNS/NAME."""
    entries: tuple[str, ...] = ()
    """Names of the entries to run; empty = all."""
    one_process: bool = False
    """Make all runs in this process. Runs that differ only in seed, length and learning rate
    compile once. Their weights are the same as from separate processes; their seconds are not
    measured."""
    seconds: float = 0.0
    """Start no further run after this many seconds; 0 = no limit."""
    table: bool = False
    """Make the table from the finished runs, without starting any."""


@dataclass(frozen=True)
class Contest:
    """The content of a contest's file."""

    program: str
    """The trainer, one of PROGRAMS."""
    workload: str
    metric: str
    goal: str
    """minimize or maximize"""
    target: float
    margin: float
    budget: int
    """Number of trials for each entry and length."""
    lengths: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    entries: Mapping[str, Json]
    """Name → `settings`, which are fixed, and `space`, from which the others are drawn. In the file
    this can be the path of a file with the entries, which several contests share."""

    @property
    def rules(self) -> Rules:
        """The rules by which the results are judged."""
        return Rules(self.target, self.margin, self.budget, self.goal == "maximize")


def read_contest(path: Path) -> Contest:
    """The contest in a file. Raises ValueError, which names the file and the fault."""
    values = read_yaml(path)
    names = [field.name for field in dataclasses.fields(Contest)]
    if set(values) != set(names):
        odd = sorted(set(values) ^ set(names))
        raise ValueError(f"{path}: {', '.join(odd)}: a contest has {', '.join(names)}")
    if isinstance(values["entries"], str):
        values["entries"] = read_yaml(clone.find(values["entries"]))
    for name in ("lengths", "tuning_seeds", "seeds"):
        is_list = isinstance(values[name], list) and values[name]
        if not is_list or not all(type(number) is int for number in values[name]):
            raise ValueError(f"{path}: {name} {values[name]!r} is not a list of whole numbers")
        values[name] = tuple(values[name])
    for name in ("target", "margin", "budget"):
        if isinstance(values[name], bool) or not isinstance(values[name], int | float):
            raise ValueError(f"{path}: {name} {values[name]!r} is not a number")
    contest = Contest(**values)
    if not isinstance(contest.entries, Mapping):
        raise ValueError(f"{path}: entries are not names with settings")
    for name, known in (("program", tuple(PROGRAMS)), ("goal", GOALS)):
        if values[name] not in known:
            raise ValueError(f"{path}: {name} {values[name]!r} is none of {', '.join(known)}")
    if both := set(contest.seeds) & set(contest.tuning_seeds):
        raise ValueError(f"{path}: seeds {sorted(both)} are used for tuning and for the score")
    for name, entry in contest.entries.items():
        try:
            draw(entry.get("space", {}), 0)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: entry {name}: {error}") from None
    return contest


def main(config: TimeToTargetConfig) -> None:
    """Tune and score every entry of each contest, then print the tables and write them."""
    began, scores = time.monotonic(), []
    programs = Programs() if config.one_process else None
    for name in config.contests:
        scores.append(_finish(Path(name), config, began, programs))
    if len(scores) > 1:
        text = describe_areas(dict(zip(map(_name, config.contests), scores, strict=True)))
        write_bytes(Path(config.out) / AREAS, text.encode())
        print(text)


def _name(contest: str) -> str:
    """The name of a contest's file, which its folders have."""
    return Path(contest).stem


def _finish(
    path: Path, config: TimeToTargetConfig, began: float, programs: Programs | None
) -> list[Score]:
    """Make the missing runs of a contest, then write and print its table. With `programs` all runs
    are in this process and share compiled programs; with None each has a separate process."""
    contest = read_contest(path)
    if programs is not None and contest.program != "train.py":
        raise ValueError(
            f"{path}: only runs of train.py can share a process, not those of {contest.program}; "
            "omit --one_process"
        )
    out, runs = Path(config.out) / path.stem, Path(config.runs) / path.stem
    if unknown := set(config.entries) - set(contest.entries):
        known = ", ".join(contest.entries)
        raise ValueError(f"{path} has no entry {', '.join(sorted(unknown))}; there are {known}")
    out.mkdir(parents=True, exist_ok=True)
    names = config.entries or tuple(contest.entries)
    with nullcontext() if config.table else sole_user(out, "out"):
        while not config.table:
            if config.seconds and time.monotonic() - began > config.seconds:
                print(f"stopped after {config.seconds:g} s; the same command resumes")
                break
            job = next(jobs(contest, names, read_log(out / LOG)), None)
            if job is None:
                break
            _run(contest, job, out / LOG, runs, programs)
    results = read_log(out / LOG)
    text = make_table(contest, results)
    write_bytes(out / TABLE, text.encode())
    print(text)
    return scores_of(contest, results)


def jobs(contest: Contest, names: Sequence[str], done: Sequence[Result]) -> Iterator[Job]:
    """The runs that are still missing: first the tuning, trial by trial over all entries; then the
    score runs of each length's best trial."""
    known = {(r.entry, r.kind, r.length, r.trial, r.seed) for r in done}
    wanted = [
        Job(entry, "tuning", length, trial, seed)
        for trial in range(contest.budget)
        for length in contest.lengths
        for entry in names
        for seed in contest.tuning_seeds
    ]
    yield from (job for job in wanted if job not in known)
    for seed in contest.seeds:
        for length in contest.lengths:
            for entry in names:
                of_entry = [result for result in done if result.entry == entry]
                trial = best_trial(of_entry, length, contest.rules)
                job = Job(entry, "score", length, -1 if trial is None else trial, seed)
                if trial is not None and job not in known:
                    yield job


def command_of(contest: Contest, job: Job, folder: Path) -> list[str]:
    """The command of a run, which is evaluated only at its end."""
    entry = contest.entries[job.entry]
    settings = {**entry.get("settings", {}), **draw(entry.get("space", {}), job.trial)}
    fixed = {"training.steps": job.length, "training.eval_every": 0, "seed": job.seed}
    shown = lambda value: value if isinstance(value, str) else json.dumps(value)  # noqa: E731
    flags = [f"--{name}={shown(value)}" for name, value in (settings | fixed).items()]
    return [
        *("python", *PROGRAMS[contest.program], f"--config={contest.workload}", *flags),
        *(f"--name={job.entry}", f"--output_dir={folder}"),
    ]


def _run(contest: Contest, job: Job, log: Path, runs: Path, programs: Programs | None) -> None:
    """Make or resume a run, and append its line to the log.

    Raises:
        SystemExit: the run was stopped; the same command resumes it.
        ValueError: the run has no result, because it did not train, or never logged the metric.
    """
    folder = runs / f"{job.entry}-{job.length}-{job.trial}-{job.seed}"
    words = command_of(contest, job, folder)
    runs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    text = folder.with_name(folder.name + ".log")
    if programs is not None:
        code = train_here(words[2:], text, programs)
    else:
        code = make_run(words, folder, text)
    if code == exits.STOPPED:
        raise SystemExit(code)
    check_result(contest.metric, folder, code, text)
    result = measured(contest.metric, folder, code == 0, time.monotonic() - began)
    if programs is not None:
        result |= {name: None for name in result if name.endswith("_seconds")}
    append(log, {**job._asdict(), **result, "command": shlex.join(words)})
    summary = f"{job.entry} {job.kind} length {job.length} trial {job.trial} seed {job.seed}"
    print(f"{summary}: {result}", flush=True)


def make_table(contest: Contest, results: Sequence[Result]) -> str:
    """The table of a contest's results, as Markdown."""
    scores = scores_of(contest, results)
    return describe(scores, contest.rules)


def scores_of(contest: Contest, results: Sequence[Result]) -> list[Score]:
    """The scores of the entries that have runs."""
    names = [name for name in contest.entries if any(result.entry == name for result in results)]
    return [score(name, results, contest.rules, contest.lengths) for name in names]


if __name__ == "__main__":
    run(main, TimeToTargetConfig, prog="python -m experiments.time_to_target", about=__doc__ or "")
