"""Messages about a whole run, printed and written into its logbook: start, end, failure."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from jaxtyping import PyTree

from common.settings import to_yaml
from optim.schedules import describe_course
from training.config import RunConfig
from training.devices.batching import BatchPlan
from training.recipe import Recipe, Run
from training.reports import metrics, range_test
from training.reports.logbook import Logbook
from training.saved import runs, starts
from training.skips import SkippedBatches
from training.update.build import describe_size


class RunLog:
    """Reports the start, the end and the failure of a run."""

    def __init__(self, config: RunConfig, recipe: Recipe, run: Run, epochs: float) -> None:
        """`epochs`: training.epochs, if training.steps was computed from it; 0 otherwise."""
        self.book = Logbook(run.folder, run.devices.is_first)
        self._config, self._recipe, self._run, self._epochs = config, recipe, run, epochs

    def event(self, event: str, text: str) -> None:
        """Report an event that belongs to no step, such as a damaged checkpoint."""
        self.book.announce(event, None, text)

    def start(self, step: int, changes: runs.Changes | None, lines: Sequence[str]) -> None:
        """Report a start or a resume, with the changed settings, and with `lines` about the origin
        of the state."""
        folder, devices = self._run.folder, self._run.devices
        if step:
            print(f"{folder}: resumed from step {step}")
        if devices.is_first:
            starts.write_start(folder, to_yaml(self._config), devices.describe())
        self.book.note("resume" if step else "start", step, f"on {devices.describe()}")
        if self._config.note:
            self.book.note("question", step, self._config.note)
        if self._epochs:
            self.book.announce("length", step, self._describe_length())
        if changes:
            pairs = {name: list(values) for name, values in changes.items()}
            self.book.note("change", step, runs.describe(changes), changes=pairs)
        for line in lines:
            self.book.announce("init", step, line)

    def sizes(self, params: PyTree, plan: BatchPlan) -> None:
        """Print the size of the model, the devices and the data, and the course of the learning
        rate if it is given in examples."""
        config, run = self._config, self._run
        size = describe_size(config, params)
        print(f"{run.folder}: {size} on {run.devices.describe()}, {self._recipe.summary}")
        if config.optim.counts_examples:
            course = describe_course(config.optim, config.training.steps, plan.examples)
            print(course, flush=True)

    def skipped(self, batches: SkippedBatches) -> None:
        """Report batches that are skipped from now on."""
        start, stop = batches.start, batches.stop
        text = f"batches {start}:{stop}, {batches.why}"
        self.book.announce("skip batches", batches.step, text, first=start, stop=stop)

    def already_finished(self, step: int) -> None:
        """Report that there is nothing left to train."""
        training = self._config.training
        by_passes = "least_steps" if step == training.least_steps else "epochs"
        more = f"--training.{by_passes if self._epochs else 'steps'}"
        print(f"{self._run.folder} is finished at step {step}; a larger {more} trains on")

    @contextlib.contextmanager
    def failure(self, step: Callable[[], int]) -> Iterator[None]:
        """A context that writes the error or the interrupt that ends it into the logbook. `step()`
        is the number of finished updates."""
        try:
            yield
        except BaseException as error:
            event = "stop" if isinstance(error, KeyboardInterrupt) else "abort"
            text = " ".join(str(error).split()) or type(error).__name__
            self.book.note(event, step(), text)
            raise

    def end(self, done: int) -> None:
        """Report the last update, or a stop before it."""
        folder, steps = self._run.folder, self._config.training.steps
        self.book.note("end" if done == steps else "stop", done, f"step {done} of {steps}")
        print(f"{folder}: step {done} of {steps}", end="")
        print("" if done == steps else "; the same command resumes from here", flush=True)
        if self._config.training.lr_range_test and done == steps and self._run.devices.is_first:
            print(range_test.report(folder, metrics.read(folder / "metrics.jsonl")), flush=True)

    def _describe_length(self) -> str:
        training, examples = self._config.training, self._recipe.examples
        passes = f"{self._epochs:g} passes over {examples:,} examples are"
        if training.steps == training.least_steps:
            return f"{passes} at most training.least_steps: {training.steps:,} updates"
        return f"{passes} {training.steps:,} updates"
