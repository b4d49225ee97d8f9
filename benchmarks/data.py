"""How fast are token records opened and read, at any size, and beside others? Prints tables.

python -m benchmarks.data
python -m benchmarks.data --largest 10000000

Records are synthetic: 256 image tokens and a caption of 64 text tokens each. 10 million of them
take 8 GB of disk. They are opened as train.py opens them, until the first batch, in a process of
its own; its memory is without pages of files. Batches are in training's order. webdataset and
datasets read the same examples, shuffled in buffers of 1,000. Rates are per second of CPU time.
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import functools
import io
import itertools
import json
import multiprocessing
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import measure_reading
from config import run
from data.batches import open_batches
from data.records import Records, open_records, open_whole
from data.writing import Part, new_records
from files import write_text
from settings import check_least
from split_names import TRAIN

IMAGE_LENGTH, TEXT_LENGTH, VOCABULARY = 256, 64, 16_384
BUFFER = 1000
_PART = 50_000  # examples written at a time


@dataclass(frozen=True)
class DataBenchmark:
    """Sizes of records, and how long each is read."""

    largest: int = 100_000
    """Examples of the largest records; those of 10,000 and each ten times more are opened too."""
    peer_examples: int = 10_000
    """Examples that webdataset and datasets read as well; 0 = neither is run."""
    batch_size: int = 256
    """Examples of a batch."""
    seconds: float = 2.0
    """CPU seconds that each reader is timed for."""
    out: str = ""
    """A JSON file for all figures."""

    def __post_init__(self) -> None:
        check_least(self, "", 0, "peer_examples")
        check_least(self, "", 1, "largest", "batch_size")


@dataclass(frozen=True)
class Opened:
    """The cost of one folder of records."""

    examples: int
    open_seconds: float
    """Until the first batch is there."""
    memory_mb: float
    batch_ms: float


def main(benchmark: DataBenchmark) -> None:
    """Print a table of sizes, then one of readers."""
    found: dict[str, Any] = {"sizes": [], "readers": {}}
    with tempfile.TemporaryDirectory() as temporary:
        print("| examples | opened and first batch, s | memory, MB | a batch, ms |")
        print("| ---: | ---: | ---: | ---: |")
        for count in sizes_to(benchmark.largest):
            folder = Path(temporary) / f"of{count}"
            write_synthetic(folder, count)
            row = measure_alone(folder, benchmark.batch_size)
            print(
                f"| {row.examples:,} | {row.open_seconds:.2f} | {row.memory_mb:.0f} | "
                f"{row.batch_ms:.2f} |",
                flush=True,
            )
            found["sizes"].append(asdict(row))
        if benchmark.peer_examples:
            found["readers"] = print_readers(Path(temporary), benchmark)
    if benchmark.out:
        write_text(Path(benchmark.out), json.dumps(found, indent=1) + "\n")


def sizes_to(largest: int) -> list[int]:
    """10,000 and its multiples by ten below `largest`, and `largest`."""
    powers = itertools.takewhile(lambda n: n < largest, (10**i for i in itertools.count(4)))
    return [*powers, largest]


def write_synthetic(folder: Path, count: int) -> None:
    """Write records of random tokens, part by part."""
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
    """The figures of records in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (folder, batch_size))


def measure(folder: Path, batch_size: int) -> Opened:
    """Open records as train.py does, and read batches."""
    before, start = _memory(), time.perf_counter()
    records = open_whole(folder)
    batches = open_batches(records, TRAIN, batch_size, seed=0)
    batches.at(0)
    records.some_captions(6)
    seconds = time.perf_counter() - start
    times = []
    for step in range(1, 33):
        start = time.perf_counter()
        batches.at(step)
        times.append(time.perf_counter() - start)
    memory = (_memory() - before) / 1e6
    return Opened(len(records), seconds, memory, 1000 * float(np.median(times)))


def _memory() -> int:
    """Bytes that this process holds besides pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def print_readers(folder: Path, benchmark: DataBenchmark) -> dict[str, float]:
    """Examples a second of each reader, of the same examples."""
    write_synthetic(folder / "same", benchmark.peer_examples)
    records = open_records(folder / "same")
    size = benchmark.batch_size
    batches = open_batches(records, TRAIN, size, seed=0)
    rates = {"Pastel": measure_reading(batches, size, benchmark.seconds)}
    for name, opener in (("webdataset", open_webdataset), ("datasets", open_datasets)):
        rates[name] = rate(opener(records, folder, size), benchmark.seconds)
    print("\n| reader | examples a second | Pastel is faster |")
    print("| --- | ---: | ---: |")
    for name, value in rates.items():
        print(f"| {name} | {value:,.0f} | {rates['Pastel'] / value:.1f} × |")
    return rates


def rate(epoch: Callable[[], Iterator[Any]], seconds: float) -> float:
    """Examples a second of CPU time, out of as many epochs as it takes."""
    stream = itertools.chain.from_iterable(epoch() for _ in itertools.count())
    next(stream)
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        count += len(next(stream)["image_tokens"])
    return count / (time.process_time() - start)


def open_webdataset(records: Records, folder: Path, size: int) -> Callable[[], Iterator[Any]]:
    """A tar with a .npy for each kind of tokens, read by webdataset."""
    import webdataset

    with ExitStack() as stack:
        tar = stack.enter_context(tarfile.open(folder / "same.tar", "w"))
        for number in range(len(records)):
            for name in ("image_tokens", "text_tokens"):
                file = io.BytesIO()
                np.save(file, np.asarray(getattr(records, name)[number]))
                member = tarfile.TarInfo(f"{number:09}.{name}.npy")
                member.size = file.tell()
                file.seek(0)
                tar.addfile(member, file)

    def parse(sample: dict[str, Any]) -> dict[str, np.ndarray]:
        load = functools.partial(np.load, allow_pickle=False)
        names = ("image_tokens", "text_tokens")
        return {name: load(io.BytesIO(sample[f"{name}.npy"])) for name in names}

    def stack_all(samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.stack([one[name] for one in samples]) for name in samples[0]}

    def epoch() -> Iterator[Any]:
        opened = webdataset.WebDataset(str(folder / "same.tar"), shardshuffle=False)
        shuffled = opened.shuffle(BUFFER).map(parse)
        return iter(shuffled.batched(size, collation_fn=stack_all, partial=False))

    return epoch


def open_datasets(records: Records, folder: Path, size: int) -> Callable[[], Iterator[Any]]:
    """A saved data set of Hugging Face's `datasets`, streamed."""
    import datasets

    columns = {name: np.asarray(getattr(records, name)) for name in ("image_tokens", "text_tokens")}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "same.arrow")
    saved = datasets.load_from_disk(folder / "same.arrow").with_format("numpy")

    def epoch() -> Iterator[Any]:
        stream = saved.to_iterable_dataset().shuffle(seed=0, buffer_size=BUFFER)
        return iter(stream.iter(size, drop_last_batch=True))

    return epoch


if __name__ == "__main__":
    import runtime

    runtime.prepare()
    run(main, DataBenchmark, prog="python -m benchmarks.data", about=__doc__ or "")
