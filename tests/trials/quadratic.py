"""A program for sweeps. Its loss has the minimum 0.125 at x = 0.01.

It resumes like train.py: with the same --output_dir it continues after the last row.
"""

import json
import math
import signal
import sys
import time
from pathlib import Path

STEPS = 8


def main(words: list[str]) -> int:
    flags = dict(word.removeprefix("--").split("=", 1) for word in words)
    x, fault = float(flags["x"]), flags.get("fault", "none")
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    if fault == "fails":
        print("this x is no good")
        return 2
    folder = Path(flags["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    done = len(path.read_text().splitlines()) if path.is_file() else 0
    name = "other" if fault == "silent" else "loss"
    with path.open("a") as file:
        for step in range(done + 1, STEPS + 1):
            time.sleep(float(flags.get("pause", 0)))
            loss = (math.log10(x) + 2) ** 2 + 1 / step
            value = None if fault == "nan" else loss
            file.write(json.dumps({"step": step, name: value}) + "\n")
            file.flush()
            if signals and step < STEPS:
                return 75
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
