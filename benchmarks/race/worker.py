"""Runs one contestant in a separate process and environment; driver.py starts it.

python worker.py '{"adapter": …, "job": …, "sizes": …, "cpus": …, "warm_up": …}'

It prints one line of JSON when it is compiled and warm. Then it answers each input line `run` with
the times of one run. All other output goes to stderr.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parent))

import configs
import numpy as np

MAKERS = {
    "train": "make_train_step",
    "sample": "make_sampler",
    "encode": "make_encoder",
    "decode": "make_decoder",
}


def main(order: dict[str, Any]) -> None:
    """Prepare, answer, then run once for each input line `run`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    try:
        os.sched_setaffinity(0, order["cpus"])
        run, answer = prepare(order)
    except Exception as error:
        traceback.print_exc()
        say(answers, error=f"{type(error).__name__}: {error}"[:400])
        return
    say(answers, **answer)
    for index, line in enumerate(sys.stdin, start=order["warm_up"]):
        if line.strip() == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            run(index)
            say(answers, wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def prepare(order: dict[str, Any]) -> tuple[Callable[[int], Any], dict[str, Any]]:
    """The contestant's run function, warm and checked, and the facts for the driver.

    Raises:
        ValueError: the result has a wrong shape or is out of range.
    """
    job, c = order["job"], {**order["sizes"], "threads": len(order["cpus"])}
    start = time.perf_counter()
    run, info = getattr(load(order["adapter"]), MAKERS[job])(c)
    result, first = run(0), time.perf_counter() - start
    for index in range(1, order["warm_up"]):
        result = run(index)
    flops, tokens = configs.job_flops(c, job), c["batch"] * c["image_len"]
    check = check_result(job, c, result)
    return run, {"first": first, "check": check, "flops": flops, "tokens": tokens, "info": info}


def load(path: str) -> ModuleType:
    """The module of an adapter's file. Raises ValueError if it is not a Python file."""
    spec = importlib.util.spec_from_file_location("adapter", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_result(job: str, c: dict[str, Any], result: object) -> float:
    """A number that shows whether contestants did the same work: the loss, the number of different
    tokens, or the pixels' standard deviation. Raises ValueError for an impossible result."""
    shape: tuple[int, ...]
    if job == "train":
        shape, smallest, largest = (), 0.0, np.inf
    elif job == "decode":
        shape, smallest, largest = (c["batch"], c["px"], c["px"], 3), -np.inf, np.inf
    else:
        shape = (c["batch"], c["image_len"])
        smallest, largest = 0, c["image_vocab" if job == "sample" else "codes"]
    array = np.asarray(result)
    if array.shape != shape:
        raise ValueError(f"{job} gave an array of shape {array.shape} in place of {shape}")
    if not np.isfinite(array).all() or array.min() < smallest or array.max() > largest:
        raise ValueError(f"{job} gave {array.min()} to {array.max()}, not {smallest} to {largest}")
    if job == "train":
        return float(array)
    return float(array.std()) if job == "decode" else float(len(np.unique(array)))


def say(answers: TextIO, **values: Any) -> None:
    """Send one line of JSON to the driver."""
    print(json.dumps(values), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
