"""Races Pastel against its peers. Makes every README figure that names a peer, and other tables.

benchmarks/race/make_peers
python -m benchmarks.race.driver drawing

Each contestant runs in its own process and virtual environment. All contestants compile and warm up
first. Each round then times one run of every contestant, so a change in the machine's speed affects
all alike. Compare only ratios within one table: the speeds of two machines may differ by a factor
of two.
"""

import json
import select
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from benchmarks.race import configs
from benchmarks.race.contestants import Contestant, read_contestant
from command_line.parser import run
from common.settings import check_least

Job = Literal["train", "sample", "encode", "decode"]


@dataclass(frozen=True)
class Race:
    """The job, the contestants and the cores of a race."""

    job: Job
    sizes: str
    contestants: tuple[str, ...]
    cpus: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ()


DRAWERS = ("pastel", "dalle_mini:use_scan=false", "hf_bart:dtype=bf16", "min_dalle:dtype=bf16")
TUNED_BART = "hf_bart:dtype=bf16,malloc=tuned"
TRAINERS = ("pastel", "pastel:dtype=bf16", "dalle_mini", "hf_bart", TUNED_BART)
TWO_CORES = ("pastel:dtype=bf16", "dalle_mini", TUNED_BART)
FIGURES = {
    "drawing": Race("sample", "bench-S", DRAWERS, settings=("batch=1",)),
    "drawing_four": Race("sample", "bench-S", DRAWERS, settings=("batch=4",)),
    "encoding": Race("encode", "vq-64", ("pastel", "taming")),
    "decoding": Race("decode", "vq-64", ("pastel", "taming")),
    "training": Race("train", "bench-S", TRAINERS),
    "training_two_cores": Race("train", "bench-S", TWO_CORES, cpus=(0, 1)),
}
"""The README's figures, by name."""


@dataclass(frozen=True)
class RaceConfig:
    """The settings of a README figure or of another race."""

    figure: str = field(
        metadata={
            "positional": True,
            "nargs": None,
            "help": f"A figure: {', '.join(FIGURES)}; or a job: {', '.join(get_args(Job))}, "
            "with --contestants.",
        }
    )
    """A figure of the README, or a job."""
    contestants: tuple[str, ...] = ()
    """Contestants that replace the figure's: names from contestants.py, each with its own settings,
    such as [pastel,'hf_bart:dtype=bf16,malloc=tuned']."""
    sizes: str = ""
    """A name from configs.py, such as tiny. Empty = the figure's sizes, or the job's: bench-S for
    train and sample, vq-64 for encode and decode."""
    settings: tuple[str, ...] = ()
    """Further settings of all contestants, such as ['batch=4','top_k=256']."""
    cpus: tuple[int, ...] = ()
    """Cores that each contestant is bound to. On one core the table compares CPU seconds, which
    exclude other programs. On several cores it compares wall seconds. Empty = the figure's cores,
    or core 0."""
    rounds: int = 7
    """Timed runs per contestant."""
    warm_up: int = 2
    """Untimed runs before the timed ones. The first one compiles."""
    timeout: float = 400.0
    """Seconds in which a contestant must compile and warm up."""
    peers: str = "~/.cache/pastel-bench"
    """Folder in which make_peers made the peers' environments."""
    out: str = "bench-out"
    """Folder for the numbers of all runs (results.jsonl) and the contestants' logs."""


@dataclass
class Running:
    """A contestant's process and the times of its runs."""

    contestant: Contestant
    process: "subprocess.Popen[str]"
    log: Path
    answer: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, float]] = field(default_factory=list)

    def warm_up(self, timeout: float) -> None:
        """Wait until the contestant has compiled and warmed up. If it fails, raises ValueError with
        the reason."""
        self.answer = self._next_line(timeout)
        if "error" in self.answer:
            raise self._failed(f"cannot race: {self.answer['error']}")

    def run(self) -> None:
        """Time one run."""
        assert self.process.stdin is not None
        print("run", file=self.process.stdin, flush=True)
        self.runs.append(self._next_line(None))

    def median(self, clock: str) -> float:
        return statistics.median(run[clock] for run in self.runs)

    def least(self, clock: str) -> float:
        return min(run[clock] for run in self.runs)

    def _next_line(self, timeout: float | None) -> dict[str, Any]:
        output = self.process.stdout
        assert output is not None
        if not select.select([output], [], [], timeout)[0]:
            raise self._failed(f"gave no answer in {timeout:.0f} s; raise --timeout")
        line = output.readline()
        if not line:
            raise self._failed("ended without an answer")
        return json.loads(line)

    def _failed(self, how: str) -> ValueError:
        return ValueError(f"{self.contestant.text} {how}; see {self.log}")


def main(config: RaceConfig) -> None:
    """Start the contestants one at a time, time them in turns, and print the table."""
    race = choose(config)
    out, peers = Path(config.out), Path(config.peers).expanduser()
    contestants = [read_contestant(text, peers) for text in race.contestants]
    orders = [make_order(race, contestant, config.warm_up) for contestant in contestants]
    out.mkdir(parents=True, exist_ok=True)
    running: list[Running] = []
    try:
        for contestant, order in zip(contestants, orders, strict=True):
            peer = start(contestant, order, out)
            running.append(peer)
            peer.warm_up(config.timeout)  # one at a time: a compilation would disturb the others
            text = f"first run {peer.answer['first']:.1f} s, check {peer.answer['check']:.4g}"
            print(f"# {contestant.text}: {text}, {peer.answer['info']}", flush=True)
        for _ in range(config.rounds):
            for peer in running:
                peer.run()
    finally:
        for peer in running:
            peer.process.kill()
            peer.process.wait()
    report(race, running, out)


def choose(config: RaceConfig) -> Race:
    """The race that the command line asks for. Raises ValueError if there is none."""
    if config.figure in FIGURES:
        known = FIGURES[config.figure]
    elif config.figure in get_args(Job):
        sizes = "bench-S" if config.figure in ("train", "sample") else "vq-64"
        known = Race(config.figure, sizes, ())  # type: ignore[arg-type]
    else:
        names = ", ".join((*FIGURES, *get_args(Job)))
        raise ValueError(f"no figure or job {config.figure!r}; there are: {names}")
    chosen = Race(
        known.job,
        config.sizes or known.sizes,
        config.contestants or known.contestants,
        config.cpus or known.cpus,
        (*known.settings, *config.settings),
    )
    if not chosen.contestants:
        raise ValueError(f"the job {config.figure} needs contestants: --contestants=[pastel,…]")
    check_least(config, "", 1, "rounds", "warm_up")
    return chosen


def make_order(race: Race, contestant: Contestant, warm_up: int) -> dict[str, Any]:
    """The job description for a contestant's worker. Raises ValueError for a setting without a
    value."""
    changes: dict[str, Any] = {}
    for setting in race.settings:
        key, is_set, value = setting.partition("=")
        if not is_set:
            raise ValueError(f"the setting {setting!r} is not of the form key=value")
        changes[key] = yaml.safe_load(value)
    return {
        "adapter": str(contestant.adapter),
        "job": race.job,
        "sizes": configs.get(race.sizes, **changes | contestant.settings),
        "cpus": list(race.cpus),
        "warm_up": warm_up,
    }


def start(contestant: Contestant, order: dict[str, Any], out: Path) -> Running:
    """Start the contestant in a separate process, where it compiles."""
    log = out / f"{contestant.text.replace('/', '_')[:80]}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [contestant.python, Path(__file__).with_name("worker.py"), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=contestant.environment,
        )
    return Running(contestant, process, log)


def report(race: Race, running: list[Running], out: Path) -> None:
    """Print the table, fastest first, and append every run to results.jsonl."""
    clock = "cpu" if len(race.cpus) == 1 else "wall"
    best = min(peer.median(clock) for peer in running)
    cores = ", ".join(map(str, race.cpus))
    what = " ".join((race.job, race.sizes, *race.settings))
    print(f"\n{what}: cores {cores}, {clock} seconds")
    print("| contestant | parameters, M | least | median | tokens/s | GFLOP/s | × the fastest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for peer in sorted(running, key=lambda peer: peer.median(clock)):
        answer, median = peer.answer, peer.median(clock)
        print(
            f"| {peer.contestant.text} | {answer['info']['params'] / 1e6:.1f} "
            f"| {peer.least(clock):.4f} | {median:.4f} | {answer['tokens'] / median:.0f} "
            f"| {answer['flops'] / peer.least(clock) / 1e9:.1f} | {median / best:.2f} |"
        )
    with (out / "results.jsonl").open("a") as file:
        for peer in running:
            row = asdict(race) | {"time": time.time(), "contestant": peer.contestant.text}
            print(json.dumps(row | peer.answer | {"runs": peer.runs}), file=file)


if __name__ == "__main__":
    run(main, RaceConfig, prog="python -m benchmarks.race.driver", about=__doc__ or "")
