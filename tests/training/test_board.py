"""Event files hold the logged values in TensorBoard's format. Errors in writing them end no run."""

import math
import struct
from pathlib import Path

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from training.config import TrackerConfig
from training.reports.board import Board

ON = TrackerConfig(tensorboard=True)


def events(run: Path) -> list[Event]:
    """All events of all files. A TFRecord is a length, its checksum, the data, their checksum."""
    found = []
    for path in sorted((run / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_rows_and_pictures_are_written(tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    Image.new("RGB", (4, 3)).save(picture)
    board = Board(ON, tmp_path, 0)
    board.log({"step": 7, "train/loss": 2.5, "examples": 56, "bad": math.nan, "no": None}, 7)
    board.image("grid", picture, 7)
    version, row, image = events(tmp_path)  # readable before the file is closed
    board.close()
    assert version.file_version == "brain.Event:2"
    numbers = {value.tag: value.simple_value for value in row.summary.value}
    assert (row.step, numbers) == (7, {"train/loss": 2.5, "examples": 56.0})
    (value,) = image.summary.value
    assert (value.tag, value.image.width, value.image.height) == ("grid", 4, 3)
    assert value.image.encoded_image_string == picture.read_bytes()


def test_rows_that_were_taken_back_are_not_shown(tmp_path: Path) -> None:
    """TensorBoard drops rows from the step at which a later session starts."""
    board = Board(ON, tmp_path, 0)
    board.rewind(20)
    board.close()
    Board(ON, tmp_path, 30).close()
    starts = [
        event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START
    ]
    assert starts == [21, 31]


def test_without_the_flag_there_is_no_file(tmp_path: Path) -> None:
    board = Board(TrackerConfig(), tmp_path, 0)
    board.log({"train/loss": 1.0}, 1)
    board.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_full_disk_is_reported_once_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(ON, tmp_path, 0)

    def full(event: Event) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board._writer, "write_event", full)
    for step in (1, 2):
        board.log({"train/loss": 1.0}, step)
    board.close()
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "No space left on device" in output


def test_a_folder_that_cannot_be_made_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").touch()
    Board(ON, tmp_path, 5).log({"train/loss": 1.0}, 6)
    assert "TensorBoard's files take no more rows" in capsys.readouterr().err
