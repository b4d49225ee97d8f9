"""How fast are token records opened and read, at any size and beside other formats? Prints tables.

python -m benchmarks.data
python -m benchmarks.data --largest 10000000

Records are synthetic: 256 image tokens and a caption of 64 text tokens each. 10 million of them
take 8 GB of disk. A fresh process opens them as train.py does and reads the first batch, after the
system was asked to drop them from its page cache. Its memory is counted without pages of files.
Batches are in training's order. webdataset and datasets read the same examples, shuffled in buffers
of 1,000; these rates are per second of CPU time. data.encode is compared with its VQGAN alone, by
wall time: measure it on an idle machine.
"""

import sys

if __name__ == "__main__":
    if not __package__:  # started as a file, without -m
        sys.path[0] = sys.path[0].rpartition("/")[0]
    from common import installed

    installed.check()

import itertools
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoding import measure_encoding
from benchmarks.readers import measure_readers
from command_line.parser import run
from common.files import write_text
from common.settings import check_least
from common.split_names import TRAIN
from data.batches import open_batches
from data.encoding.writing import Part, new_records
from data.records import open_records, open_whole

IMAGE_LENGTH, TEXT_LENGTH, VOCABULARY = 256, 64, 16_384
_PART = 50_000  # examples written at a time


@dataclass(frozen=True)
class DataBenchmark:
    """The sizes of records, and how long each reader is timed."""

    largest: int = 100_000
    """Examples in the largest records. Records of 10,000, 100,000 … examples below it are opened
    too."""
    peer_examples: int = 10_000
    """Examples that webdataset and datasets read too; 0 = do not run them."""
    batch_size: int = 256
    """Examples per batch."""
    seconds: float = 2.0
    """CPU seconds for which each reader is timed."""
    encode_pictures: int = 1024
    """Pictures that data.encode, and its VQGAN alone, encode; 0 = not measured."""
    vqgan: str = "vqgan/general"
    """Folder of that VQGAN."""
    out: str = ""
    """A JSON file to write all figures to; empty = none."""

    def __post_init__(self) -> None:
        check_least(self, "", 0, "peer_examples", "encode_pictures")
        check_least(self, "", 1, "largest", "batch_size")


@dataclass(frozen=True)
class Opened:
    """The cost of one folder of records."""

    examples: int
    open_seconds: float
    """Seconds from the start until the first batch has been read."""
    read_mb: float
    """Megabytes read from the disk until then."""
    memory_mb: float
    batch_ms: float


def main(benchmark: DataBenchmark) -> None:
    """Print a table of sizes, a table of readers, and a table of encoding."""
    results: dict[str, Any] = {"sizes": [], "readers": {}, "encoding": {}}
    with tempfile.TemporaryDirectory() as temporary:
        print(
            "| examples | opened and first batch, s | read for it, MB | memory, MB | a batch, ms |"
        )
        print("| ---: | ---: | ---: | ---: | ---: |")
        for count in sizes_to(benchmark.largest):
            folder = Path(temporary) / f"of{count}"
            write_synthetic(folder, count)
            row = measure_alone(folder, benchmark.batch_size)
            print(
                f"| {row.examples:,} | {row.open_seconds:.2f} | {row.read_mb:.1f} | "
                f"{row.memory_mb:.0f} | {row.batch_ms:.2f} |",
                flush=True,
            )
            results["sizes"].append(asdict(row))
        if benchmark.peer_examples:
            results["readers"] = print_readers(Path(temporary), benchmark)
        if benchmark.encode_pictures:
            results["encoding"] = print_encoding(Path(temporary), benchmark)
    if benchmark.out:
        write_text(Path(benchmark.out), json.dumps(results, indent=1) + "\n")


def sizes_to(largest: int) -> list[int]:
    """10,000, 100,000 … below `largest`, and `largest`."""
    powers = itertools.takewhile(lambda n: n < largest, (10**i for i in itertools.count(4)))
    return [*powers, largest]


def write_synthetic(folder: Path, count: int) -> None:
    """Write `count` records of random tokens, 50,000 at a time."""
    random = np.random.default_rng(0)
    about: dict[str, Any] = {"codebook_size": VOCABULARY, "text_vocab_size": VOCABULARY}
    with new_records(folder, [TRAIN], source=".", **about) as records:
        for start in range(0, count, _PART):
            size = min(_PART, count - start)
            image = random.integers(0, VOCABULARY, (size, IMAGE_LENGTH), np.int32)
            text = random.integers(0, VOCABULARY, (size, TEXT_LENGTH), np.int32)
            numbers = range(start, start + size)
            examples = [_example(number) for number in numbers]
            lengths = random.integers(1, TEXT_LENGTH + 1, size, np.int32)
            offsets, weights = np.arange(size + 1), np.ones(size, np.float32)
            records.add(Part(image, text, lengths, offsets, weights, [TRAIN] * size, examples))


def _example(number: int) -> dict[str, Any]:
    return {
        "key": f"{number:09}",
        "source_index": number,
        "file": f"{number // 10_000:05}.tar",
        "caption": f"a photograph of thing number {number}",
        "split": TRAIN,
    }


def measure_alone(folder: Path, batch_size: int) -> Opened:
    """The result of `measure` in a fresh process. Raises BrokenProcessPool if that is killed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, folder, batch_size).result()


def measure(folder: Path, batch_size: int) -> Opened:
    """Open records as train.py does, read 33 batches, and return the cost."""
    forget(folder)
    before, read, start = _memory(), _read_bytes(), time.perf_counter()
    records = open_whole(folder)
    batches = open_batches(records, TRAIN, batch_size, seed=0)
    batches.at(0)
    records.some_captions(6)
    seconds, read = time.perf_counter() - start, _read_bytes() - read
    times = []
    for step in range(1, 33):
        start = time.perf_counter()
        batches.at(step)
        times.append(time.perf_counter() - start)
    memory = (_memory() - before) / 1e6
    return Opened(len(records), seconds, read / 1e6, memory, 1000 * float(np.median(times)))


def forget(folder: Path) -> None:
    """Ask the system to drop a folder's files from its page cache, so that they are read from
    disk."""
    for path in folder.rglob("*") if hasattr(os, "posix_fadvise") else ():
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)  # a page that is not on the disk yet cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def _read_bytes() -> int:
    """Bytes that this process has read from disks; 0 if the system does not say."""
    path = Path("/proc/self/io")
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _memory() -> int:
    """Bytes of memory of this process, without pages of files; 0 if the system does not say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def print_readers(folder: Path, benchmark: DataBenchmark) -> dict[str, Any]:
    """Print a table of each reader's examples per second, for the same examples."""
    write_synthetic(folder / "same", benchmark.peer_examples)
    records = open_records(folder / "same")
    rates_by_order = measure_readers(records, folder, benchmark.batch_size, benchmark.seconds)
    for how, rates in rates_by_order.items():
        print(f"\n| {how} | examples a second | Pastel is faster | on the device | and then |")
        print("| --- | ---: | ---: | ---: | ---: |")
        ours = rates["Pastel"]
        for name, rate in rates.items():
            print(
                f"| {name} | {rate.batch:,.0f} | {ours.batch / rate.batch:.1f} × | "
                f"{rate.device:,.0f} | {ours.device / rate.device:.1f} × |",
                flush=True,
            )
    return {how: {k: asdict(v) for k, v in rates.items()} for how, rates in rates_by_order.items()}


def print_encoding(folder: Path, benchmark: DataBenchmark) -> dict[int, Any]:
    """Print the pictures per second of data.encode and of its VQGAN alone, by the pictures'
    side."""
    speed_by_side = measure_encoding(folder, Path(benchmark.vqgan), benchmark.encode_pictures)
    print(f"\n| JPEGs to tokens | {benchmark.vqgan} alone, a second | data.encode | share |")
    print("| --- | ---: | ---: | ---: |")
    for side, speed in speed_by_side.items():
        print(f"| {side} × {side} | {speed.alone:,.1f} | {speed.encode:,.1f} | {speed.share:.2f} |")
    return {side: {**asdict(speed), "share": speed.share} for side, speed in speed_by_side.items()}


if __name__ == "__main__":
    import runtime

    runtime.prepare()
    run(main, DataBenchmark, prog="python -m benchmarks.data", about=__doc__ or "")
