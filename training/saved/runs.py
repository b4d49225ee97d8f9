"""A run's folder: made for a new run, or checked before a resume.

RUN/config.yaml        the resolved configuration
RUN/environment.json   for each start: command, commit, package versions, devices
RUN/metrics.jsonl      one row per update
RUN/LOGBOOK.md         what happened to the run, and logbook.jsonl for programs
RUN/skips.json         skipped batches
RUN/checkpoints/STEP   RUN/grids/*.png
RUN/tokenizer/         RUN/vqgan/, and RUN/SHA256SUMS of both

With checkpoint.folder the steps are stored there, with copies of the rest
(training/saved/copies.py).
"""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common import files
from common.copying import copy_folder
from common.old_names import is_old_name_of
from common.settings import SettingsTree, flatten
from training.saved import copies, remote, starts

# Settings that may differ when a run is resumed, because they do not change past updates: names,
# or groups that end with a dot. More `steps` move the decay of the learning rate.
FREE_ON_RESUME = (
    "output_dir",
    "allow_changes",
    "init_from",  # read before the first update only
    "text_encoder",
    "branch_from",
    "name",
    "note",
    "training.observe",
    "training.observe_every",
    "data.records",  # its content's digest is compared instead
    "data.source",
    "data.validation",  # evaluated only
    "training.steps",
    "training.epochs",
    "training.least_steps",
    "training.micro_batch_size",  # up to rounding
    "training.skip_batches",  # only future batches; written into the logbook
    "training.bad_update_budget",
    "training.loss_scale_patience",
    "training.stop_after",
    "training.profile",
    "training.norms_every",
    "training.log_every",
    "training.eval_every",
    "training.eval_examples",
    "training.eval_captions",
    "grids.",
    "sampling.",
    "choose_sampling",
    "checkpoint.",
    "parallel.",
    "tracker.",
)
UNLOGGED = ("output_dir", "allow_changes")
"""Changed settings that are not logged."""
OURS = {
    *("config.yaml", "environment.json", "metrics.jsonl", "wandb_id.txt"),
    *("config.yaml.new", "environment.json.new", "metrics.jsonl.new"),
    *("LOGBOOK.md", "logbook.jsonl", "skips.json", "skips.json.new"),
    *("checkpoints", "grids", "tokenizer", "vqgan", "tokenizer.new", "vqgan.new", "wandb"),
    *("tensorboard", "profile", "lr_range.svg", "SHA256SUMS"),
    ".lock",
}
"""Names of files that a start without an update may leave in the folder."""


def new_folder(name: str) -> Path:
    """Make and return runs/DATE-NAME, with a number added if a run of the same second has that
    name."""
    base = Path("runs") / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{name}"
    base.parent.mkdir(exist_ok=True)
    more = (base.with_name(f"{base.name}-{i}") for i in itertools.count(2))
    for folder in itertools.chain([base], more):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers do not run out")


Changes = dict[str, tuple[Any, Any]]
Read = Callable[[Path], SettingsTree]
"""config.yaml → the settings in it."""


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> Changes:
    """Dotted name → (old value, new value) of each setting that differs."""
    before, after = (
        {name: list(v) if isinstance(v, tuple) else v for name, v in flatten(tree).items()}
        for tree in (old, new)
    )
    return {
        name: (before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }


def describe(changes: Changes) -> str:
    """A text such as "seed (was 0, now 1), model.dim (was 8, now 16)"."""
    return ", ".join(f"{k} (was {old}, now {new})" for k, (old, new) in changes.items())


def refused(changes: Changes, allowed: Sequence[str]) -> Changes:
    """The changes that forbid a resume. `allowed` holds patterns of names."""
    return {name: values for name, values in changes.items() if not _is_free(name, allowed)}


def fixed_on_resume(about: Mapping[str, object], allowed: Sequence[str]) -> dict[str, object]:
    """The parts of `about` that must be the same on resume: all; none if `allowed`, patterns of
    settings, has data.records or data.source; all but the rules if it has data.filter."""
    if any(
        fnmatchcase(name, pattern)
        for pattern in allowed
        for name in ("data.records", "data.source")
    ):
        return {}
    is_free = any(fnmatchcase("data.filter", pattern) for pattern in allowed)
    return {k: v for k, v in about.items() if not (is_free and k == "filter of records")}


def _is_free(name: str, allowed: Sequence[str]) -> bool:
    is_allowed = any(
        fnmatchcase(name, pattern) or is_old_name_of(pattern, name) for pattern in allowed
    )
    return is_allowed or any(
        name == free or (free[-1] == "." and name.startswith(free)) for free in FREE_ON_RESUME
    )


def open_folder(folder: Path, config: SettingsTree, read: Read) -> Changes | None:
    """Make the folder, or check that it may be resumed. Returns the changed settings, or None if
    nothing was trained there yet.

    `read(path)` reads a config.yaml into a tree like `config`. `config["allow_changes"]` holds
    patterns of settings that may differ.

    Raises:
        ValueError: the folder is not a run's, or its run has other settings.
    """
    if folder.is_file():
        raise ValueError(f"output_dir {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    saved, environment = folder / "config.yaml", folder / "environment.json"
    is_run = saved.is_file() and environment.is_file()
    _check_content(folder, is_run)
    if is_run:
        starts.read(environment)  # raises if it is damaged, before anything is trained
    place = _find_checkpoints(folder, config)
    if not _has_content(place):
        if is_run:
            _check_left(folder, place, read)
        return None  # nothing was trained here yet: other settings do not contradict it
    if not saved.is_file():
        raise ValueError(
            f"output_dir {folder} holds checkpoints but no config.yaml, so their settings are "
            "unknown; name another folder"
        )
    changed = differences(read(saved), config)
    allowed = config.get("allow_changes", ())
    other = refused(changed, allowed)
    if other:
        raise ValueError(
            f"output_dir {folder} holds a run with other settings: {describe(other)}; resume it "
            f"with the same, name another output_dir, or add --allow_changes {' '.join(other)}"
        )
    return {name: values for name, values in changed.items() if name not in UNLOGGED}


def _check_content(folder: Path, is_run: bool) -> None:
    """Raise ValueError for a file that a run cannot use, and for other files where no run is."""
    for path in folder.iterdir():
        if path.name in OURS and path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(
                f"{path} is a pipe, socket or device, which a run cannot use; remove it"
            )
    strange = sorted({path.name for path in folder.iterdir()} - OURS)
    if strange and not is_run:  # users may put other files into a run's folder
        raise ValueError(
            f"output_dir {folder} holds something that is not a run ({strange[0]}); "
            "name another folder"
        )


def place_of(run: Path, folder: str) -> str:
    """The place of a run's checkpoints: its checkpoint.folder, or RUN/checkpoints without one."""
    return folder or str(run / "checkpoints")


def _find_checkpoints(run: Path, config: SettingsTree) -> str:
    """The place of a run's checkpoints. Copies of the run's files there are fetched into `run`."""
    named = config.get("checkpoint", {}).get("folder", "")
    if named and not remote.is_remote(named):
        if Path(named).is_file():
            raise ValueError(f"checkpoint.folder {named} is a file; name a folder")
        if Path(named).resolve() == run.resolve():
            raise ValueError(f"checkpoint.folder {named} is the output_dir; name another folder")
    if named:
        copies.fetch(run, named)
    return place_of(run, named)


def _has_content(place: str) -> bool:
    """True if the place holds more than interrupted saves."""
    if remote.is_remote(place):
        return bool(remote.ObjectSteps(place).steps())
    others = (path for path in Path(place).glob("*") if path.name != "run")
    return any(not path.name.endswith("-tmp") for path in others)


def _check_left(run: Path, place: str, read: Read) -> None:
    """Raise ValueError if the run's checkpoints are in another place, and none is in this one."""
    try:
        saved = read(run / "config.yaml")
    except ValueError:  # of another version: nothing was trained with it
        return
    old = place_of(run, saved.get("checkpoint", {}).get("folder", ""))
    if old != place and _has_content(old):
        raise ValueError(
            f"the checkpoints of {run} are in {old}, and checkpoint.folder says {place}, where "
            "there is none; copy them there, or name that folder"
        )


@contextlib.contextmanager
def sole_user(folder: Path, flag: str = "output_dir") -> Iterator[None]:
    """A context that locks the folder against a second process. A killed process releases the lock.

    Raises:
        ValueError: another process holds the lock; the message names `flag`.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{flag} {folder} is in use by another process") from None
        except OSError as error:  # Lustre without -o flock, NFS without lockd, some FUSE
            print(
                f"warning: {file.name} cannot be locked ({error.strerror}): nothing keeps a second "
                "process from writing into this folder at the same time",
                file=sys.stderr,
            )
        yield


def copy_once(source: Path, target: Path) -> None:
    """Copy a folder into the run, atomically, unless the run has it already."""
    if not target.exists():
        with files.new_folder(target) as folder:
            copy_folder(source, folder, source.parent)
