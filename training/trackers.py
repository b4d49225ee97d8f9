"""Where metrics go: metrics.jsonl always, the terminal, and wandb when asked.

No fault of wandb reaches training: it is a mirror, and is let go at its first error.
"""

import secrets
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from training.config import TrackerConfig
from training.metrics import NO_COSTS, Costs, MetricsFile, memory

SHOWN = ("train/loss", "speed/examples_per_s")


@runtime_checkable
class Pace(Protocol):
    """How long a run is, and how often it tells of itself."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def log_every(self) -> int: ...


class Tracker:
    """Writes each row to the file, and every `log_every`th to the terminal and to wandb."""

    def __init__(
        self,
        config: TrackerConfig,
        pace: Pace,
        folder: Path,
        restored_step: int,
        settings: Mapping[str, Any],
        costs: Costs = NO_COSTS,
        is_writer: bool = True,
        examples_at: Callable[[int], int] | None = None,
    ) -> None:
        """`settings`: the resolved configuration, for the mirror. Of several processes one is the
        writer. `examples_at(step)`: examples seen in so many updates, where batches are not all of
        one size."""
        count = examples_at or (lambda step: step * pace.batch_size)
        self._open = lambda step: MetricsFile(folder / "metrics.jsonl", step, count, costs)
        self._file = self._open(restored_step) if is_writer else None
        self._log_every = max(pace.log_every, 1)
        self._steps = pace.steps
        self._restored_step = self.step = restored_step
        self._bar: tqdm | None = None  # drawn with the first row, below what is printed until then
        self._wandb = _Wandb(config if is_writer else TrackerConfig(), folder, settings)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()
        self._wandb.call(lambda run: run.finish())

    def rewind(self, step: int) -> None:
        """Training goes on from an earlier step: rows beyond it are removed."""
        self.step = step
        if self._file is not None:
            self._file.close()
            self._file = self._open(step)

    def record(self, step: int, row: dict[str, float]) -> None:
        """One finished update."""
        self.step = step
        if self._file is None:
            return
        evaluated = {k: v for k, v in row.items() if k.startswith("eval/")}
        is_shown = step % self._log_every == 0 or bool(evaluated) or step == self._steps
        full = self._file.write(step, {**row, **(memory() if is_shown else {})})
        self._advance(step)
        if is_shown:
            self._wandb.call(lambda run: run.log(full, step=step))
            self._show(step, {k: full[k] for k in SHOWN if k in full} | evaluated)

    def image(self, step: int, name: str, path: Path) -> None:
        """A picture file of the run, for the mirror; it stands in the run's folder already."""
        self._wandb.image(step, name, path)

    def sync(self) -> None:
        """Called before each checkpoint."""
        if self._file is not None:
            self._file.sync()

    def _advance(self, step: int) -> None:
        if self._bar is None:
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=self._steps, initial=self._restored_step, unit="step", disable=quiet
            )
        self._bar.update(step - self._bar.n)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        """On a terminal the bar has the loss, and a line is for evaluations only."""
        is_bar = self._bar is not None and not self._bar.disable
        if self._bar is not None and is_bar:
            self._bar.set_postfix_str(f"loss {values['train/loss']:.3f}", refresh=False)
        if not is_bar or any(name.startswith("eval/") for name in values):
            text = "  ".join(f"{k.removeprefix('train/')} {v:.4g}" for k, v in values.items())
            tqdm.write(f"step {step}/{self._steps}  {text}", file=sys.stderr)


def _lasting_id(path: Path) -> str:
    """The run's id on the server: made at its first start, and no other run's."""
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()


class _Wandb:
    """A wandb run behind a wall: errors are told once and end the mirroring, never the training."""

    def __init__(self, config: TrackerConfig, folder: Path, settings: Mapping[str, Any]) -> None:
        self._run: Any = None
        if config.wandb == "off":
            return
        for mode in ("online", "offline") if config.wandb == "online" else ("offline",):
            try:
                import wandb

                self._run = wandb.init(
                    project=config.project,
                    name=folder.resolve().name,
                    id=_lasting_id(folder / "wandb_id.txt"),
                    resume="allow",
                    dir=folder,
                    mode=mode,
                    config=dict(settings),
                    settings=wandb.Settings(init_timeout=20),
                )
                return
            except Exception as error:
                warnings.warn(f"wandb {mode} does not start: {error}", stacklevel=2)

    def call(self, action: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            warnings.warn(
                f"wandb failed ({error}); training goes on and metrics.jsonl has every row",
                stacklevel=3,
            )

    def image(self, step: int, name: str, path: Path) -> None:
        def log(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path))}, step=step)

        self.call(log)
