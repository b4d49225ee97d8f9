"""Run a sweep file without an account: wandb's own engine, and a fresh process for each run.

python sweep.py sweeps/learning_rate.yaml --count 16
"""

import runtime

runtime.prepare()

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from command_line.parser import parse_config, run
from common import clone
from common.files import write_bytes
from training import exits
from training.saved.runs import sole_user
from trials import engine, processes, report
from trials.ledger import LEDGER, Trial, read_ledger
from trials.processes import Running
from trials.search import Search, Start, Stop
from trials.sweep_file import Sweep, read_sweep

COPY = "sweep.yaml"
WANDB = "--tracker.wandb="


@dataclass(frozen=True)
class SweepConfig:
    """The sweep, the number of runs, and their folder."""

    file: str = field(metadata={"nargs": None, "positional": True, "help": "Sweep file to run."})
    """A YAML file of wandb's format, such as sweeps/learning_rate.yaml."""
    count: int = 0
    """Most runs; 0: run_cap of the file, or until a grid has been walked."""
    parallel: int = 1
    """Runs at the same time; each takes the devices that it finds."""
    out: str = ""
    """Folder of the sweep: the runs, trials.jsonl, results.csv and plots. Default:
    runs/sweeps/NAME, by the file's name. The same command resumes with what is there."""
    one_process: bool = False
    """Make all runs of train.py in this process. Runs that differ only in seed, length and learning
    rate compile once. Results equal those of separate processes, bit for bit. For runs of seconds,
    on one device, without early_terminate."""
    resume: bool = False
    """Only resume: the folder must hold trials of this file."""
    seed: int = 0
    """Seed of the engine; each suggestion is a function of it and of the runs before."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Value of the runs' --tracker.wandb, if the file sets it."""

    def __post_init__(self) -> None:
        if self.count < 0 or self.parallel < 1:
            raise ValueError(
                f"count {self.count} cannot be negative, and parallel {self.parallel} must be at "
                "least 1"
            )


def main(config: SweepConfig) -> None:
    """Check the file, try settings until the budget is used, and print the best."""
    sweep = read_sweep(clone.find(config.file))
    program = str(clone.find(sweep.settings["program"]))
    sweep = replace(sweep, settings={**sweep.settings, "program": program})
    count = config.count or sweep.run_cap
    if not count and sweep.settings["method"] != "grid":
        raise ValueError(
            f"method {sweep.settings['method']} has no end: say how many runs, as --count 16"
        )
    folder = Path(config.out or f"runs/sweeps/{sweep.path.stem}").absolute()
    check_flags(sweep, folder)
    if config.one_process:
        check_one_process(sweep, config.parallel)
    open_folder(folder, sweep, config.resume)
    with sole_user(folder), Stop().listening(exits.STOP_SIGNALS) as stop:
        search = Search(
            sweep,
            folder,
            words=lambda trial, run: command_of(sweep, trial, run, config.wandb),
            on_end=lambda trial: print(report.line_of(sweep, trial), flush=True),
            count=count,
            parallel=config.parallel,
            seed=config.seed,
            start=_start_of(sweep, stop, config.one_process),
        )
        trials = search.run(stop)
    written = report.write(folder, sweep, trials)
    print(report.table(sweep, trials))
    print("written: " + ", ".join(str(path) for path in written))
    if stop.is_asked:
        print(f"stopped; the same command resumes in {folder}", file=sys.stderr)
        raise SystemExit(exits.STOPPED)


def open_folder(folder: Path, sweep: Sweep, must_exist: bool) -> None:
    """Make the sweep's folder, or check that it holds trials of the same file.

    Raises:
        ValueError: it holds another file's trials, or none although `must_exist`.
    """
    content = sweep.path.read_bytes()
    copy = folder / COPY
    if must_exist and not (folder / LEDGER).is_file():
        raise ValueError(f"--resume: {folder} holds no trials; leave the flag out to begin")
    if copy.is_file() and copy.read_bytes() != content:
        raise ValueError(
            f"{folder} holds {len(read_ledger(folder))} trials of a file with other contents than "
            f"{sweep.path} ({copy} is that one); name another --out"
        )
    if not copy.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else; name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(copy, content)


def check_one_process(sweep: Sweep, parallel: int) -> None:
    """Raise ValueError if the runs of this sweep need separate processes."""
    if not _is_ours(sweep.settings["program"], "train.py"):
        raise ValueError(f"{sweep.at('program')}: --one_process is for train.py")
    if "early_terminate" in sweep.settings or parallel > 1:
        why = "early_terminate" if "early_terminate" in sweep.settings else f"--parallel={parallel}"
        raise ValueError(f"--one_process makes one run after the other to its end, without {why}")


def _start_of(sweep: Sweep, stop: Stop, one_process: bool) -> Start:
    """The function that starts a run of this sweep. A stop signal to a run in this process stops
    the sweep."""
    if not one_process:
        return processes.start
    from training.update.shared import Programs
    from trials.one_process import train_here

    programs = Programs()

    def start(folder: Path, trial: Trial, words: Sequence[str], metric: str | None) -> Running:
        flags = words[words.index(sweep.settings["program"]) + 1 :]
        result = processes.run_here(
            *(folder, trial, metric, lambda log: train_here(flags, log, programs), exits.STOPPED)
        )
        stop.is_asked |= result.is_asked_to_stop
        return result

    return start


def command_of(sweep: Sweep, trial: Trial, run: Path, wandb: str) -> list[str]:
    """The command of a trial: the file's own, into a folder of the sweep, with wandb as asked."""
    words = engine.command(sweep.settings, trial.settings, sys.executable)
    words = [f"{WANDB}{wandb}" if word.startswith(WANDB) else word for word in words]
    return [*words, f"--output_dir={run}"]


def check_flags(sweep: Sweep, folder: Path) -> None:
    """Parse the flags of the first suggestion, and of each variant with one other value.

    Raises:
        ValueError: a flag is unknown, or a value is refused; the message names line and key.
    """
    program = sweep.settings["program"]
    if not Path(program).is_file():
        raise ValueError(f"{sweep.at('program')}: there is no {program} here")
    if "output_dir" in sweep.parameters:
        raise ValueError(f"{sweep.at('parameters.output_dir')}: each run's folder is the sweep's")
    if (config_class := _config_class(program)) is None:
        return
    first = engine.suggest(sweep.settings, [], 0, 0) or {}
    for changed, settings in ((None, first), *_variants(sweep, first)):
        words = command_of(sweep, Trial(0, settings), folder / "000", "off")
        flags = words[words.index(program) + 1 :]
        try:
            parse_config(config_class, flags)
        except ValueError as error:
            named = [name for name in settings if f"--{name}" in str(error) or name in str(error)]
            name = changed or max(named, key=len, default="")
            raise ValueError(f"{sweep.at(f'parameters.{name}')}: {error}") from None


def _variants(sweep: Sweep, first: dict[str, object]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Searched parameter → its other values, or the ends of its range."""
    for name in sweep.searched:
        entry = sweep.parameters[name]
        values: Sequence[Any] = entry.get("values") or [entry.get("min"), entry.get("max")]
        for value in values:
            if value is not None and entry.get("distribution") != "log_uniform":
                yield name, {**first, name: value}


def _is_ours(program: str, name: str) -> bool:
    return Path(program) in (Path(name), clone.ROOT / name)


def _config_class(program: str) -> type | None:
    """The configuration class of a program of ours; None for another."""
    if _is_ours(program, "train.py"):
        from config import Config

        return Config
    if _is_ours(program, "vqgan/train.py"):
        from vqgan.run_config import VQGANRunConfig

        return VQGANRunConfig
    return None


if __name__ == "__main__":
    run(main, SweepConfig, prog="sweep.py", about=__doc__ or "")
