"""Sends metrics and pictures to wandb from a separate process, so that training never waits.

`Mirror` is the trainer's end of a pipe. The process at the other end runs this file, and reads
lines of JSON: the settings first, then rows and pictures, until the pipe closes. The pipe also
closes when the trainer is killed, so its wandb run ends as well. Only that process imports wandb.
"""

import contextlib
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import write_text
from training.config import TrackerConfig
from training.exits import STOP_SIGNALS

ID_FILE = "wandb_id.txt"
MOST_ID = 256  # bytes of that file
MOST_WAITING = 100_000  # messages that wandb has not taken yet
MOST_SECONDS = 600  # for wandb to end by itself, after the trainer
Message = Mapping[str, Any]


class Mirror:
    """The trainer's end: its methods return at once."""

    def __init__(self, config: TrackerConfig, folder: Path, settings: Mapping[str, object]) -> None:
        """`settings` is the run's resolved configuration."""
        self._waiting: queue.Queue[Message | None] = queue.Queue(MOST_WAITING)
        self._process: subprocess.Popen[str] | None = None
        if config.wandb == "off":
            return
        try:
            lasting = _lasting_id(folder / ID_FILE)
        except (OSError, ValueError) as error:
            _warn(f"wandb does not start: {error}")
            return
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "training.reports.mirror"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # wandb speaks on stderr
                text=True,
                start_new_session=True,  # Ctrl-C is not for it
            )
        except OSError as error:
            _warn(f"wandb does not start: {error}")
            return
        threading.Thread(target=self._send, args=(self._process,), daemon=True).start()
        self._put(
            {
                "modes": ["online", "offline"] if config.wandb == "online" else ["offline"],
                "folder": str(folder.resolve()),
                "project": config.project,
                "id": lasting,
                "settings": dict(settings),
                "trainer": os.getpid(),
            }
        )

    def log(self, row: Message, step: int) -> None:
        self._put({"row": dict(row), "step": step})

    def image(self, name: str, path: Path, step: int) -> None:
        """Send a picture file, which must not be moved afterwards."""
        self._put({"image": name, "path": str(path.resolve()), "step": step})

    def finish(self, exit_code: int, seconds: float) -> None:
        """End the run, and wait for wandb for at most `seconds`. After that it finishes alone."""
        if self._process is None:
            return
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait({"exit_code": exit_code})
            self._waiting.put_nowait(None)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            _warn("wandb is not ready and is left to itself; metrics.jsonl has every row")

    def _put(self, message: Message) -> None:
        if self._process is None:
            return
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self._process.kill()  # the thread tells

    def _send(self, process: subprocess.Popen[str]) -> None:
        """Write to the pipe, in a thread, because the pipe blocks while wandb hangs."""
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                while (message := self._waiting.get()) is not None:
                    pipe.write(json.dumps(message, default=str) + "\n")
                    pipe.flush()
        except OSError:
            if process.wait() != 0:  # else it has reported why
                _warn("wandb's process died; training continues and metrics.jsonl has every row")


def _lasting_id(path: Path) -> str:
    """The run's id on wandb, which is made at the first start and stored in `path`.

    Raises:
        ValueError: the file does not have an id.
    """
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; move it away, and another is made")
    with path.open("rb") as file:
        run_id = file.read(MOST_ID).decode("utf-8", errors="replace").strip()
    if not re.fullmatch(r"[\w.-]{1,64}", run_id):
        raise ValueError(f"{path} holds no id of a run; move it away, and another is made")
    return run_id


def _note_id(path: Path, run_id: str) -> None:
    """Store the id that wandb uses: a sweep's agent sets its own."""
    with contextlib.suppress(OSError):  # training reports a full disk
        if path.read_text().strip() != run_id:
            write_text(path, run_id)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the other end of the pipe. A failure is reported once, and ends only this process."""
    for number in (*STOP_SIGNALS, signal.SIGINT):  # it ends when the pipe does
        signal.signal(number, signal.SIG_IGN)
    messages: queue.Queue[Message | None] = queue.Queue(MOST_WAITING)
    threading.Thread(target=_read, args=(messages,), daemon=True).start()
    try:
        begin = messages.get()
        run = None if begin is None else _open(begin)
        while run is not None and (message := messages.get()) is not None:
            if "exit_code" in message:
                break
            _log(run, message)
        if run is not None:
            run.finish(exit_code=1 if message is None else message["exit_code"])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _warn(f"wandb failed ({reason}); training continues and metrics.jsonl has every row")
    os._exit(0)  # wandb would wait for a helper that may be gone


def _read(messages: "queue.Queue[Message | None]") -> None:
    try:
        for line in sys.stdin:
            if line.endswith("\n"):  # else the trainer was killed
                messages.put_nowait(json.loads(line))
        messages.put_nowait(None)
    except queue.Full:
        _warn("wandb takes no more rows; training continues and metrics.jsonl has every row")
        os._exit(0)
    last = threading.Timer(MOST_SECONDS, os._exit, (1,))
    last.daemon = True
    last.start()


def _open(begin: Message) -> Any:
    """A wandb run in the first mode that works; None if none does."""
    for mode in begin["modes"]:
        try:
            import wandb

            run = wandb.init(
                project=begin["project"],
                name=Path(begin["folder"]).name,
                id=begin["id"],
                resume="allow",
                dir=begin["folder"],
                mode=mode,
                config=begin["settings"],
                settings=wandb.Settings(init_timeout=20, x_stats_pid=begin["trainer"]),
            )
            run.define_metric("*", step_metric="examples")  # batches may grow
            _note_id(Path(begin["folder"]) / ID_FILE, run.id)
            return run
        except Exception as error:
            _warn(f"wandb {mode} does not start: {' '.join(str(error).split())}")
            with contextlib.suppress(Exception):
                wandb.teardown()  # it would hold the id
    return None


def _log(run: Any, message: Message) -> None:
    if "image" not in message:
        run.log(message["row"], step=message["step"])
        return
    import wandb

    run.log({message["image"]: wandb.Image(message["path"])}, step=message["step"])


if __name__ == "__main__":
    main()
