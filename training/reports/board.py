"""Writes metrics and pictures as TensorBoard's event files, into RUN/tensorboard. TensorBoard is
not needed for it; only this file uses tensorboardX.

Records are written at once, in the training thread. The library's own writer would block on its
thread, which ends when the disk is full.
"""

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from training.config import TrackerConfig

FOLDER = "tensorboard"


class Board:
    """Writes rows and pictures. The first failed write is reported, and training continues."""

    def __init__(self, config: TrackerConfig, run: Path, restored_step: int) -> None:
        """Open the event file. Rows after `restored_step` of an earlier start are hidden."""
        self._writer = None
        if not config.tensorboard:
            return
        try:
            from tensorboardX.event_file_writer import EventsWriter

            (run / FOLDER).mkdir(exist_ok=True)
            self._writer = EventsWriter(
                str(run / FOLDER / "events"), f".{os.getpid()}-{restored_step}"
            )
        except (ImportError, OSError) as error:
            self._give_up(error)
        if restored_step:
            self.rewind(restored_step)

    def log(self, row: Mapping[str, object], step: int) -> None:
        """Write the finite numbers of a row."""
        if self._writer is None:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        numbers = {
            k: float(v) for k, v in row.items() if k != "step" and isinstance(v, int | float)
        }
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in numbers.items()
            if math.isfinite(value)
        ]
        self._write(step, summary=Summary(value=values))

    def image(self, name: str, path: Path, step: int) -> None:
        """Write a picture file."""
        if self._writer is None:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        try:
            with Image.open(path) as picture:
                width, height = picture.size
            image = Summary.Image(
                height=height,
                width=width,
                colorspace=3,  # RGB
                encoded_image_string=path.read_bytes(),
            )
        except OSError as error:
            self._give_up(error)
            return
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def rewind(self, step: int) -> None:
        """Hide rows after this step, by starting a new session of TensorBoard."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import SessionLog

        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OSError as error:
                self._give_up(error)

    def _write(self, step: int, **content: object) -> None:
        from tensorboardX.proto.event_pb2 import Event

        assert self._writer is not None
        try:
            self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        text = " ".join(str(error).split())
        print(
            f"warning: TensorBoard's files take no more rows ({text}); training continues and "
            "metrics.jsonl has every row",
            file=sys.stderr,
            flush=True,
        )
