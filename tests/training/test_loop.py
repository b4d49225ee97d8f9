"""The loop: one row per update, hooks when they are due, and a stop on request."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from training.loop import Callbacks, Hook, Hooks, fit
from training.reports import metrics
from training.signals import StopSignal
from training.update.state import TrainState
from training.update.step_metrics import Row, StepMetrics


def step_metrics(loss: Any) -> StepMetrics:
    one = jnp.float32(1)
    return StepMetrics(jnp.float32(loss), one, one, one, more={})


def count_up(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, StepMetrics]:
    return state._replace(step=state.step + 1), step_metrics(batch["n"])


def fresh(step: int = 0) -> TrainState:
    return TrainState(jnp.int32(step), {}, (), jnp.zeros(2, jnp.uint32), None)


def never() -> Hook:
    return Hook(0, lambda step, state: None)


def test_each_update_gets_one_row_with_the_values_of_its_hooks() -> None:
    rows: list[tuple[int, Row]] = []
    hook = Hook(2, lambda step, state: {"eval/loss": float(state.step) * 10})
    fit(
        count_up,
        fresh(),
        lambda n: {"n": np.array(n)},
        5,
        callbacks=Callbacks(record=lambda step, row: rows.append((step, row))),
        hooks=Hooks(periodic=[hook], save=never()),
    )
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5]
    assert [row["train/loss"] for _, row in rows] == [0, 1, 2, 3, 4]
    assert [row.get("eval/loss") for _, row in rows] == [None, 20, None, 40, 50]


def test_a_checkpoint_is_written_after_the_rows_it_relies_on() -> None:
    events: list[tuple[str, int]] = []
    save = Hook(3, lambda step, state: events.append(("save", step)))
    fit(
        count_up,
        fresh(2),
        lambda n: {"n": np.array(n)},
        7,
        callbacks=Callbacks(record=lambda step, row: events.append(("row", step))),
        hooks=Hooks(save=save),
    )
    rows = [("row", n) for n in range(3, 8)]
    assert events == [rows[0], ("save", 3), *rows[1:4], ("save", 6), rows[4], ("save", 7)]


def test_the_state_may_be_renewed_between_updates() -> None:
    seen = []

    def between(n: int, state: TrainState) -> TrainState:
        seen.append((n, int(state.step)))
        return state

    fit(
        count_up,
        fresh(),
        lambda n: {"n": np.array(n)},
        3,
        callbacks=Callbacks(record=lambda *_: None),
        hooks=Hooks(save=never(), between=between),
    )
    assert seen == [(0, 0), (1, 1), (2, 2)]


def test_a_wish_to_stop_is_granted_after_the_update_and_saved() -> None:
    saved = []

    def batch_at(n: int) -> dict[str, np.ndarray]:
        if n == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"n": np.array(n)}

    with StopSignal() as stop:
        state = fit(
            count_up,
            fresh(),
            batch_at,
            100,
            stop=stop,
            callbacks=Callbacks(record=lambda *_: None),
            hooks=Hooks(save=Hook(0, lambda step, state: saved.append(step))),
        )
    assert saved == [4]
    assert int(state.step) == 4
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("place", ["batch", "hook", "record"])
def test_an_error_is_raised_once_the_state_before_it_is_kept(place: str) -> None:
    """Rows up to then are recorded. An error before the first update leaves nothing to save."""
    rows: list[int] = []
    kept: list[tuple[int, int]] = []

    def fail(where: str, step: int, at: int) -> None:
        if (where, step) == (place, at):
            raise OSError(f"{where} {step}")

    def run(at: int) -> None:
        def batch_at(n: int) -> dict[str, np.ndarray]:
            fail("batch", n, at)
            return {"n": np.array(n)}

        def record(step: int, row: dict[str, Any]) -> None:
            rows.append(step)
            fail("record", step, at)

        def rescue(step: int, state: TrainState) -> None:
            kept.append((step, int(state.step)))

        hooks = Hooks(never(), periodic=[Hook(4, lambda step, state: fail("hook", step, at))])
        with pytest.raises(OSError, match=f"{place} {at}"):
            fit(count_up, fresh(), batch_at, 9, Callbacks(record, rescue=rescue), hooks)

    run(4)
    assert rows == [1, 2, 3, 4]
    assert kept == [(4, 4)]
    if place == "batch":
        run(0)
        assert kept == [(4, 4)]


def test_a_row_that_decides_the_end_ends_the_loop_after_the_update_under_way() -> None:
    saved, rows = [], []
    callbacks = Callbacks(lambda step, row: rows.append(step), is_over=lambda: 3 in rows)
    save = Hook(0, lambda step, state: saved.append(step))
    state = fit(count_up, fresh(), lambda n: {"n": np.array(n)}, 9, callbacks, Hooks(save))
    assert (saved, rows, int(state.step)) == ([4], [1, 2, 3, 4], 4)


def test_a_damaged_row_is_named_and_no_good_one_is_lost(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = metrics.MetricsFile(path, 0, lambda step: 4 * step)
    for step in (1, 2, 3):
        file.write(step, {"time/step_ms": 1000.0})
    file.close()
    lines = path.read_text().splitlines()
    broken = "\n".join([lines[0], "?", lines[2]]) + "\n"
    path.write_text(broken)
    for read in (lambda: metrics.MetricsFile(path, 1, lambda step: 4 * step), metrics_of(path)):
        with pytest.raises(ValueError, match="line 2 is not a row of metrics"):
            read()
        assert path.read_text() == broken


def metrics_of(path: Path) -> Callable[[], Any]:
    return lambda: metrics.read(path)


@pytest.mark.parametrize("block", [1, 7, 64, 2**16])
@pytest.mark.parametrize("torn", ["", '{"step": 6, "ho', '{"step": 6, "hours": 6.0}'])
def test_a_start_keeps_the_rows_until_its_step_and_reads_no_more_than_it_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, torn: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setattr(metrics, "BLOCK", block)
    rows = [json.dumps({"step": n, "hours": n / 4, "text": "ü" * n}) + "\n" for n in range(1, 6)]
    for step in range(7):
        path.write_text("".join(rows) + torn)
        file = metrics.MetricsFile(path, step, lambda step: step)
        file.write(step + 1, {"time/step_ms": 3600.0})
        file.close()
        found = metrics.read(path)
        last = 6 if torn.endswith("}") else 5
        kept = list(range(1, min(step, last) + 1))
        assert [row["step"] for row in found] == [*kept, step + 1]
        before = found[-2]["hours"] if kept else 0.0
        assert found[-1]["hours"] == pytest.approx(before + 0.001)
        assert path.read_text().startswith("".join(rows[: len(kept)]))


def test_a_start_reads_the_end_of_a_long_history_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"step": {n}, "hours": {n}}}\n' for n in range(1, 200_001))
    with path.open("rb") as file:
        start, line = next(itertools.islice(metrics._lines_backwards(file, path), 9, None))
        assert file.tell() == path.stat().st_size  # one block was read, the last
    assert json.loads(line)["step"] == 200_000 - 9
    assert start > path.stat().st_size - metrics.BLOCK


def test_numbers_that_json_does_not_know_are_null(tmp_path) -> None:
    file = metrics.MetricsFile(tmp_path / "metrics.jsonl", 0, lambda step: 4 * step)
    file.write(1, {"time/step_ms": 1.0, "norm/grad": float("inf")})
    file.close()
    assert metrics.read(tmp_path / "metrics.jsonl")[0]["norm/grad"] is None


def test_a_stop_that_comes_late_in_an_update_still_saves_it() -> None:
    saved: list[int] = []
    with StopSignal() as stop:

        def record(step: int, row: Row) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        fit(
            count_up,
            fresh(),
            lambda n: {"n": np.array(n)},
            9,
            stop=stop,
            callbacks=Callbacks(record=record),
            hooks=Hooks(
                periodic=[Hook(1, lambda step, state: None)],
                save=Hook(0, lambda step, state: saved.append(step)),
            ),
        )
    assert saved == [3]


def test_a_stop_before_the_first_update_trains_and_saves_nothing() -> None:
    saved: list[int] = []
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        state = fit(
            count_up,
            fresh(2),
            lambda n: {"n": np.array(n)},
            9,
            stop=stop,
            callbacks=Callbacks(record=lambda *_: None),
            hooks=Hooks(save=Hook(1, lambda step, state: saved.append(step))),
        )
    assert (saved, int(state.step)) == ([], 2)


def test_a_stop_while_a_larger_batch_is_compiled_does_not_wait_for_it() -> None:
    """The step is saved without the result of `between`, and the process may end."""
    events: list[tuple[str, int]] = []

    class Watched(StopSignal):
        def allow_end(self, save: Any) -> None:
            super().allow_end(save)
            events.append(("free", 0))

        def forbid_end(self) -> None:
            super().forbid_end()
            events.append(("busy", 0))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, StepMetrics]:
        events.append(("step", len(batch["n"])))
        return state._replace(step=state.step + 1), step_metrics(1)

    def between(n: int, state: TrainState) -> TrainState:
        events.append(("between", n))
        return state

    with Watched() as stop:
        fit(
            step,
            fresh(1),
            lambda n: {"n": np.zeros(1 if n < 3 else 2)},
            5,
            stop=stop,
            callbacks=Callbacks(record=lambda step, row: events.append(("row", step))),
            hooks=Hooks(
                save=Hook(0, lambda step, state: events.append(("save", step))), between=between
            ),
        )
        assert events == [
            *(("between", 1), ("step", 1), ("busy", 0)),
            *(("between", 2), ("step", 1), ("busy", 0), ("row", 2)),
            *(("row", 3), ("save", 3), ("free", 0)),
            *(("between", 3), ("step", 2), ("busy", 0)),
            *(("between", 4), ("step", 2), ("busy", 0), ("row", 4)),
            *(("row", 5), ("save", 5)),
        ]


def test_rows_beyond_the_restored_step_are_removed(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = metrics.MetricsFile(path, 0, lambda step: 4 * step)
    for step in (1, 2, 3):
        file.write(step, {"time/step_ms": 1000.0, "train/loss": 1.0})
    file.close()
    with path.open("a") as broken:
        broken.write('{"step": 4, "tr')  # a kill in the middle of a write
    file = metrics.MetricsFile(path, 2, lambda step: 4 * step)
    file.write(3, {"time/step_ms": 1000.0, "train/loss": 2.0})
    file.close()
    rows = metrics.read(path)
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 1), (2, 1), (3, 2)]
    assert rows[-1]["examples"] == 12
    assert rows[-1]["hours"] == pytest.approx(3 / 3600, abs=1e-6)


def test_a_row_tells_what_the_machine_does(tmp_path) -> None:
    costs = metrics.Costs(tokens=64, flops=2e9, peak_flops=1e12)
    file = metrics.MetricsFile(tmp_path / "metrics.jsonl", 0, lambda step: 100 * step, costs)
    row = file.write(1, {"time/step_ms": 500.0})
    file.close()
    assert {name: value for name, value in row.items() if name.startswith("speed/")} == {
        "speed/examples_per_s": 200,
        "speed/tokens_per_s": 12800,
        "speed/tflops": 0.4,
        "speed/utilisation": 0.4,
    }
    assert metrics.memory()["memory/peak_gb"] > 0.01
    assert metrics.peak_flops("NVIDIA H200") == 989e12
    assert metrics.peak_flops("TPU v5 lite") == 197e12
    assert metrics.peak_flops("cpu") == 0
