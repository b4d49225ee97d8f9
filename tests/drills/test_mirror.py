"""Faults of the real wandb: training continues as without them, and metrics.jsonl is complete."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.entry.test_drills import last_step
from tests.entry.test_train import losses, tiny

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
MORE = 300  # updates after the fault


class Training:
    """A run that continues until it is stopped. Its output goes to a file, because processes that
    it leaves behind may hold a pipe open."""

    def __init__(self, records: Path, run: Path, mode: str, **environment: str) -> None:
        words = tiny(
            records, run, "--training.steps=1000000", "--training.eval_every=0",
            "--training.log_every=1", "--training.on_spike=off", "--checkpoint.every=1000",
            f"--tracker.wandb={mode}",
        )  # fmt: skip
        self.run, self._said = run, run.with_name("said.txt")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        with self._said.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "train.py", *words], cwd=ROOT, stdout=file, stderr=file,
                env={**clean, "HOME": str(run.parent), **environment},
            )  # fmt: skip

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 120
        while not is_so():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, f"no {what}: {self.said}"
            time.sleep(0.02)

    @property
    def said(self) -> str:
        return self._said.read_text()

    def helpers(self) -> list[int]:
        """The ids of the mirror's process, and of wandb-core if it has started."""
        mirror = children(self.process.pid, "training.reports.mirror")
        return [*mirror, *(pid for one in mirror for pid in children(one, "wandb-core"))]


def children(parent: int, name: str) -> list[int]:
    """The child processes whose command contains `name`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
            if is_child and name in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Mount a small disk at the folder. Gives a function that fills it up."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")

    def fill() -> None:
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture(scope="module")
def undisturbed(
    records_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[int, float]]:
    """The losses of a run without wandb."""
    run = tmp_path_factory.mktemp("plain") / "run"
    training = Training(records_folder, run, "off")
    training.wait(lambda: last_step(run) > 5 * MORE, "progress")
    training.process.terminate()
    assert training.process.wait(60) == 75
    return losses(run)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("core killed", "warning: wandb"),  # at its start or later
        ("core stopped", ""),
        ("mirror killed", "wandb's process died"),
        ("full disk", ""),
        ("no key", "wandb online does not start: No API key"),
        ("no network", "wandb online does not start"),
    ],
)
def test_a_fault_of_wandb_reaches_nothing_else(
    records_folder: Path,
    tmp_path: Path,
    undisturbed: list[tuple[int, float]],
    record_property: Callable[[str, object], None],
    fault: str,
    message: str,
) -> None:
    run, is_online = tmp_path / "run", fault.startswith("no ")
    here = {"WANDB_API_KEY": "0" * 40} if fault == "no network" else {}
    with contextlib.ExitStack() as stack:
        fill = stack.enter_context(full_disk(run / "wandb")) if fault == "full disk" else None
        # Nothing listens on this port.
        training = Training(
            records_folder, run, "online" if is_online else "offline",
            WANDB_BASE_URL="http://127.0.0.1:9", **here,
        )  # fmt: skip
        training.wait(lambda: len(training.helpers()) == 2, "wandb-core")
        training.wait(lambda: is_online or list(run.glob("wandb/*/*.wandb")), "mirror")
        training.wait(lambda: last_step(run), "update")
        mirror, core = training.helpers()
        if "killed" in fault:
            os.kill(core if "core" in fault else mirror, signal.SIGKILL)
        elif fault == "core stopped":
            os.kill(core, signal.SIGSTOP)
        elif fill is not None:
            fill()
        before, began = last_step(run), time.monotonic()
        training.wait(lambda: last_step(run) >= before + MORE, "update")
        training.wait(lambda: message in training.said, message)
        seconds, stopped = time.monotonic() - began, time.monotonic()
        training.process.terminate()
        assert training.process.wait(60) == 75, training.said
        for helper in (mirror, core):
            with contextlib.suppress(OSError):
                os.kill(helper, signal.SIGKILL)
    rows = losses(run)
    assert [step for step, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= before + MORE
    common = min(len(rows), len(undisturbed))
    assert rows[:common] == undisturbed[:common]
    assert "Traceback" not in training.said
    assert time.monotonic() - stopped < 15
    record_property(
        "figure",
        f"wandb, {fault}: {MORE} more updates in {seconds:.1f} s, exit 75 "
        f"{time.monotonic() - stopped:.1f} s after SIGTERM, {len(rows)} rows, the same losses",
    )
