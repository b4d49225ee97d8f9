"""A run's folder is either new, or resumed with the same settings, or refused."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
import yaml

from training.saved import runs, starts
from training.saved.copies import Copies, fetch

SETTINGS = {"seed": 0, "model": {"dim": 8}, "training": {"steps": 10, "log_every": 1}}


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def trained(folder: Path) -> Path:
    assert runs.open_folder(folder, SETTINGS, load) is None
    starts.write_start(folder, yaml.safe_dump(SETTINGS, sort_keys=False), f"the cpu of {folder}")
    (folder / "checkpoints" / "5").mkdir(parents=True)
    return folder


def test_settings_that_cannot_change_the_trajectory_may_differ(tmp_path: Path) -> None:
    other = {**SETTINGS, "training": {"steps": 20, "log_every": 5}, "parallel": {"devices": 2}}
    assert runs.open_folder(trained(tmp_path / "run"), other, load) == {
        "training.steps": (10, 20),
        "training.log_every": (1, 5),
        "parallel.devices": (None, 2),
    }


def test_other_differences_are_refused_by_name_unless_they_are_allowed(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    other = {**SETTINGS, "seed": 1, "model": {"dim": 16}}
    with pytest.raises(
        ValueError, match=r"seed \(was 0, now 1\), model.dim .*--allow_changes seed model.dim"
    ):
        runs.open_folder(folder, other, load)
    with pytest.raises(ValueError, match=r"settings: model.dim \(was 8, now 16\);"):
        runs.open_folder(folder, {**other, "allow_changes": ["seed", "dim"]}, load)
    changes = {"seed": (0, 1), "model.dim": (8, 16)}
    for allowed in (["seed", "model.*"], ["*"]):
        assert runs.open_folder(folder, {**other, "allow_changes": allowed}, load) == changes


def test_a_folder_is_new_then_resumed_then_refused_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert runs.open_folder(folder, SETTINGS, load) is None
    starts.write_start(folder, yaml.safe_dump(SETTINGS, sort_keys=False), "1 × cpu")
    other = {**SETTINGS, "model": {"dim": 4}}
    assert (
        runs.open_folder(folder, other, load) is None
    )  # nothing was trained yet, so settings may change
    (folder / "checkpoints" / "5").mkdir(parents=True)
    (folder / "my_drawing.png").touch()  # users may add files to a run's folder
    assert runs.open_folder(folder, SETTINGS, load) == {}
    with pytest.raises(ValueError, match=r"model.dim \(was 8, now 16\)"):
        runs.open_folder(folder, {**SETTINGS, "model": {"dim": 16}}, load)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something that is not a run"):
        runs.open_folder(tmp_path, SETTINGS, load)


def test_a_strangers_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("my: precious")
    (tmp_path / "thesis.md").touch()
    with pytest.raises(ValueError, match=r"not a run \(thesis.md\)"):
        runs.open_folder(tmp_path, SETTINGS, load)


def test_checkpoints_whose_settings_are_lost_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds checkpoints but no config.yaml"):
        runs.open_folder(tmp_path, SETTINGS, load)


def test_a_second_process_is_kept_out_of_the_folder(tmp_path: Path) -> None:
    with (
        runs.sole_user(tmp_path),
        pytest.raises(ValueError, match="is in use by another process"),
        runs.sole_user(tmp_path),
    ):
        pass
    with runs.sole_user(tmp_path):
        pass  # the lock was released


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_no_lock_can_be_had_the_run_continues_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with runs.sole_user(tmp_path):
        pass
    output = capsys.readouterr().err
    assert output.startswith(f"warning: {tmp_path}/.lock cannot be locked ({os.strerror(number)})")
    assert output.count("\n") == 1


def test_other_package_versions_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts.write_start(tmp_path, "", "1 × cpu")
    starts.write_start(tmp_path, "", "1 × cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    starts.write_start(tmp_path, "", "1 × cpu")
    assert "bit equality is off" in capsys.readouterr().err


def test_default_folders_are_always_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {runs.new_folder("x") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def elsewhere(folder: str) -> dict:
    return {**SETTINGS, "checkpoint": {"folder": folder}}


def test_checkpoints_that_were_somewhere_else_are_not_forgotten(tmp_path: Path) -> None:
    run, store = trained(tmp_path / "run"), str(tmp_path / "store")
    with pytest.raises(ValueError, match="run are in .*run/checkpoints, and .* says .*store"):
        runs.open_folder(run, elsewhere(store), load)
    (run / "checkpoints").rename(store)
    found = runs.open_folder(run, elsewhere(store), load)
    assert found == {"checkpoint.folder": (None, store)}


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, words in (
        (tmp_path / "run", "is the output_dir"),
        (tmp_path / "file", "is a file"),
        ("s3://B", "cannot be opened: .*Invalid S3 bucket name"),
    ):
        with pytest.raises(ValueError, match=words):
            runs.open_folder(tmp_path / "run", elsewhere(str(folder)), load)


def test_another_runs_checkpoints_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    """With a wrong checkpoint.folder two runs' metrics would be mixed."""
    store = str(tmp_path / "store")
    for name, rows in (("one", "1"), ("other", "1 2 3")):
        trained(tmp_path / name)
        (tmp_path / name / "metrics.jsonl").write_text(rows)
    Copies(tmp_path / "other", store, lambda *_: None).copy()
    with pytest.raises(ValueError, match="store holds another run than .*one"):
        runs.open_folder(tmp_path / "one", elsewhere(store), load)
    assert (tmp_path / "one" / "metrics.jsonl").read_text() == "1"
    assert (tmp_path / "one" / "checkpoints" / "5").is_dir()


def test_copies_bring_back_what_is_lost_or_longer_there(tmp_path: Path) -> None:
    run, store = trained(tmp_path / "run"), str(tmp_path / "store")
    (run / "grids").mkdir()
    (run / "grids" / "1.png").write_bytes(b"picture")
    for name in ("metrics.jsonl", "LOGBOOK.md", "thesis.tex"):
        (run / name).write_text("one\ntwo\n")
    copies = Copies(run, store, lambda *_: None)
    copies.copy()
    (run / "metrics.jsonl").write_text("one\n")
    (run / "LOGBOOK.md").write_text("one\ntwo\nthree\n")
    for name in ("grids/1.png", "thesis.tex"):
        (run / name).unlink()
    fetch(run, store)
    assert (run / "metrics.jsonl").read_text() == "one\ntwo\n"
    assert (run / "LOGBOOK.md").read_text() == "one\ntwo\nthree\n"
    assert (run / "grids" / "1.png").read_bytes() == b"picture"
    assert not (run / "thesis.tex").exists()
    copies.copy()
    assert (tmp_path / "store" / "run" / "LOGBOOK.md").read_text() == "one\ntwo\nthree\n"


def test_a_save_copies_only_what_came_since_the_last_one(tmp_path: Path) -> None:
    run, store = trained(tmp_path / "run"), tmp_path / "store"
    history, text = run / "metrics.jsonl", ""
    copies = Copies(run, str(store), lambda *_: None)
    for n in range(5):
        text += f"row {n}\n" * 100
        history.write_text(text)
        if n == 3:
            copies = Copies(run, str(store), lambda *_: None)  # as in a process that resumes
        copies.copy()
    parts = sorted((store / "run").glob("metrics.jsonl*"))
    assert [path.stat().st_size for path in parts] == [600] * 5
    fetch(tmp_path / "there", str(store))
    assert (tmp_path / "there" / "metrics.jsonl").read_text() == text


@pytest.mark.parametrize("is_resumed", [True, False])
@pytest.mark.parametrize("kept", [0, 7, 6 * 100, 6 * 250, 6 * 300])
def test_rows_that_were_taken_back_are_not_copied(
    tmp_path: Path, kept: int, is_resumed: bool
) -> None:
    """Rows are removed by a rollback, after which there may be more rows than before, or by a
    resume."""
    run, store = trained(tmp_path / "run"), tmp_path / "store"
    history, text = run / "metrics.jsonl", ""
    copies = Copies(run, str(store), lambda *_: None)
    for n in range(3):
        text += f"row {n}\n" * 100
        history.write_text(text)
        copies.copy()
    if is_resumed:
        copies = Copies(run, str(store), lambda *_: None)
    text = text[:kept] + "new\n" * 300
    history.write_text(text)
    copies.copy()
    history.write_text(text + "more\n")
    copies.copy()
    fetch(tmp_path / "there", str(store))
    assert (tmp_path / "there" / "metrics.jsonl").read_text() == text + "more\n"


def test_a_start_does_not_copy_pictures_anew_that_are_there(tmp_path: Path) -> None:
    run, store = trained(tmp_path / "run"), tmp_path / "store"
    (run / "grids").mkdir()
    for name in ("1.png", "2.png"):
        (run / "grids" / name).write_bytes(b"drawn")
    Copies(run, str(store), lambda *_: None).copy()
    before = (store / "run" / "grids" / "1.png").stat().st_mtime_ns
    copies = Copies(run, str(store), lambda *_: None)
    (run / "grids" / "2.png").write_bytes(b"drawn anew")
    later = (run / "grids" / "1.png").stat().st_mtime + 60
    os.utime(run / "grids" / "2.png", (later, later))
    copies.copy()
    assert (store / "run" / "grids" / "1.png").stat().st_mtime_ns == before
    assert (store / "run" / "grids" / "2.png").read_bytes() == b"drawn anew"


@pytest.mark.parametrize(
    "name", [".lock", "LOGBOOK.md", "metrics.jsonl", "skips.json", "config.yaml"]
)
def test_a_pipe_in_a_runs_folder_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    run = trained(tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe, socket or device"):
        runs.open_folder(run, SETTINGS, load)
