"""Drills of two processes: one killed, both killed, one told to stop; and under a real mpirun."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command_line.parser import parse_config
from tests.entry.conftest import write_source
from tests.entry.test_drills import last_step, saved, wait_for
from tests.entry.test_processes import finish, start, start_both
from tests.entry.test_train import TINY, losses
from vqgan import train as autoencoder
from vqgan.run_config import VQGANRunConfig

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
STEPS, EVERY, KILLS = 300, 20, 9
FLAGS = [f"--training.steps={STEPS}", f"--checkpoint.every={EVERY}", "--training.eval_every=0"]
AUTOENCODER = [
    *("--model.image_size=8", "--model.stem_channels=8", "--model.channels=[8]"),
    *("--model.encoder_blocks=[1]", "--model.decoder_blocks=[1]", "--model.latent_channels=4"),
    *("--model.code_dim=4", "--model.codebook_size=32", "--quantizer.refresh_pictures=32"),
    *("--quantizer.warmup_steps=4", "--quantizer.refresh_every=4", "--training.steps=10"),
    *("--training.batch_size=8", "--training.eval_every=5", "--grids.every=5"),
]
Figure = Callable[[str, object], None]


def kill(both: list[subprocess.Popen], victims: list[int]) -> float:
    """kill -9 the victims. Returns the seconds until a survivor has ended, with a line that says
    why."""
    for victim in victims:
        both[victim].kill()
    began = time.monotonic()
    for number in {0, 1} - set(victims):
        _, error = both[number].communicate(timeout=60)
        assert both[number].returncode == 3
        assert "another process of this run died" in error
    seconds = time.monotonic() - began
    for victim in victims:
        out, error = both[victim].communicate(timeout=60)
        assert both[victim].returncode == -signal.SIGKILL, out + error
    return seconds


def test_kills_of_one_and_of_both_change_no_bit(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    ends = finish(start(records_folder, straight, *FLAGS), 240)
    assert [status for status, *_ in ends] == [0, 0], ends
    rng, lost, seconds = random.Random(1), [0], [0.0]
    for number, target in enumerate(sorted(rng.sample(range(1, STEPS - 10), KILLS))):
        before = last_step(killed)
        both = start(records_folder, killed, *FLAGS)
        wait_for(both[0], killed, target)
        time.sleep(rng.uniform(0, 0.05))
        seconds.append(kill(both, [[0], [1], [0, 1]][number % 3]))
        steps = [int(path.name) for path in (killed / "checkpoints").glob("[0-9]*[0-9]")]
        lost.append(last_step(killed) - max(steps, default=0))
        assert before <= target
    ends = finish(start(records_folder, killed, *FLAGS), 240)
    assert [status for status, *_ in ends] == [0, 0], ends
    assert losses(killed) == losses(straight)
    assert saved(killed) == saved(straight)
    assert max(lost) <= EVERY
    assert max(seconds) < 30
    record_property(
        "figure",
        f"{KILLS} kills of one or both of two processes: same bits; survivors gone within "
        f"{max(seconds):.1f} s; at most {max(lost)} updates done again, of {EVERY} a save",
    )


def test_a_process_stopped_before_the_first_update_tells_the_other(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    run = tmp_path / "run"
    both = start(records_folder, run, "--training.steps=100000", "--model.unroll=4")
    while not (run / "environment.json").is_file() and both[0].poll() is None:
        time.sleep(0.02)
    began = time.monotonic()
    both[1].send_signal(signal.SIGTERM)
    ends = finish(both, 60)
    assert [status for status, *_ in ends] == [75, 75], ends
    seconds = time.monotonic() - began
    assert seconds < 15
    record_property("figure", f"SIGTERM to one while compiling: both exit 75 in {seconds:.1f} s")


def test_an_error_in_one_ends_both_in_a_line(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").mkdir()  # process 0 needs a file here
    began = time.monotonic()
    ends = finish(start(records_folder, run), 240)
    assert [status for status, *_ in ends] == [2, 3], ends
    errors = [error.splitlines() for *_, error in ends]
    assert errors[0][-1].startswith("train.py: [Errno 21] Is a directory")
    assert "another process of this run died" in errors[1][-1]
    assert not [line for both in errors for line in both if "Traceback" in line or "F1" in line]
    seconds = time.monotonic() - began
    record_property("figure", f"an error in one of two processes: 2 and 3, after {seconds:.1f} s")


@pytest.mark.parametrize("layout", [[], ["--parallel.mode=mesh", "--parallel.fsdp=2"]])
def test_two_processes_train_an_autoencoder(
    tmp_path: Path, record_property: Figure, layout: list[str]
) -> None:
    pictures, run, alone = tmp_path / "pictures", tmp_path / "run", tmp_path / "alone"
    pictures.mkdir()
    write_source(pictures / "0.tar")
    flags = [*AUTOENCODER, f"--data.source={pictures}"]
    ends = finish(start_both("-m", "vqgan.train", *flags, f"--output_dir={run}", *layout), 240)
    assert [status for status, *_ in ends] == [0, 0], ends
    autoencoder.main(parse_config(VQGANRunConfig, [*flags, f"--output_dir={alone}"]))
    rows = np.array(losses(run)), np.array(losses(alone))
    np.testing.assert_allclose(*rows, rtol=1e-5)
    assert (run / "vqgan" / "MODEL_CARD.md").is_file()
    away = abs(rows[0] / rows[1] - 1).max()
    record_property("figure", f"an autoencoder in two processes {layout[:1]}: loss ± {away:.0e}")


@pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun: apt install openmpi-bin")
def test_processes_meet_under_a_real_mpirun(
    records_folder: Path, tmp_path: Path, record_property: Figure
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    more = ["--training.steps=20", "--training.eval_every=0"]
    flags = [*TINY, *more, f"--data.records={records_folder}", f"--output_dir={run}"]
    words = ["mpirun", "--oversubscribe", "-n", "2", sys.executable, "train.py", *flags]
    devices = os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    environment = {**os.environ, "XLA_FLAGS": devices, "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "4 × cpu in 2 processes" in done.stdout
    finish(start(records_folder, other, *more), 240)
    assert losses(run) == losses(other)
    assert saved(run) == saved(other)
    record_property("figure", "2 processes under mpirun: the bits of two started by hand")
