"""benchmarks.training: its tables, with shapes that take seconds, and the meaning of its
figures."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import benchmarks.training as benchmark
from benchmarks import machine, options
from benchmarks.options import OPTIONS, ShampooRow, make_row, measure_shampoo
from benchmarks.records import make_records, open_training
from benchmarks.updates import Update, Workbench, change, time_in_turns
from command_line.parser import parse_config
from config import Config
from model import transformer
from model.config import ModelConfig
from tests.first_states import placed
from training.config import ParallelConfig
from training.devices import parallel, placing
from training.devices.batching import micro_batch_size
from training.devices.devices import find_devices
from training.update.state import TrainState

ROOT = Path(__file__).parents[2]
TINY = (
    *("model.dim=16", "model.mlp_dim=24", "model.num_heads=2", "model.grid_size=3"),
    *("model.encoder_depth=1", "model.decoder_depth=1", "model.text_length=6"),
    *("model.text_vocab_size=32", "model.image_vocab_size=20", "parallel.devices=1"),
)


class Named:
    """A fake update that notes each call and the length of its turns."""

    compiling_seconds, temporary_bytes, optimizer_bytes = 1.0, 2, 3

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls, self.finished = name, calls, 0

    def __call__(self) -> None:
        self.calls.append(self.name)
        self.finished += 1


class Counted:
    """A fake compiled step that only counts its calls."""

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        return state._replace(step=state.step + 1), {}

    def compile(self) -> "Counted":
        return self

    def memory_analysis(self) -> Any:
        return Mock(output_size_in_bytes=5, alias_size_in_bytes=3)


@pytest.fixture
def bench(tiny: ModelConfig, tmp_path: Path) -> Workbench:
    batches = open_training(make_records(tmp_path / "records", tiny, 40), 8)
    return Workbench(find_devices(ParallelConfig(devices=1)), [batches.at(0), batches.at(1)])


# The tests below hold the figures of a table without measuring them.
@pytest.mark.slow
def test_it_prints_a_table_of_each_kind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(options.OPTIONS, "noise", {"loss.caption_dropout": (0.0, 0.1)})
    monkeypatch.setattr(benchmark, "measure_shampoo", lambda *_: ShampooRow(*range(1, 11)))
    monkeypatch.setitem(machine.PRODUCTS, "cpu", ((256, 256, 256), (512, 256, 256)))
    flags = ["--quick", f"--out={tmp_path / 'figures.json'}", "--options"]
    flags += ["noise", "shampoo", "data"]
    benchmark.main(parse_config(benchmark.TrainingBenchmark, [*flags, "--settings", *TINY]))
    tables = capsys.readouterr().out.split("\n\n")
    assert "parameters" in tables[0]
    heads = [table.splitlines()[0].split("|")[1].strip() for table in tables[1:]]
    assert heads == ["plain update", "option", "Shampoo", "data"]
    for table in tables[1:]:
        assert len({line.count("|") for line in table.splitlines() if line}) == 1
    found = json.loads((tmp_path / "figures.json").read_text())
    plain, (first, *others) = found["plain"], found["options"]
    assert 0 < plain["utilisation"] < 1.05
    assert 0 < plain["least_seconds"] <= plain["median_seconds"]
    assert (first["option"], first["ratio"]) == ("plain", 1.0)
    names = [row["option"] for row in others]
    assert names == ["plain, again", "loss.caption_dropout=0.1"]
    assert all(row["ratio"] > 0 and row["temporary_bytes"] > 0 for row in others)
    assert plain["copied_bytes"] < plain["argument_bytes"] / 10  # the old state is donated
    assert found["data"]["times_update"] > 1


def test_in_each_round_every_update_is_made_once() -> None:
    calls: list[str] = []
    updates: Any = [Named(name, calls) for name in "ab"]
    times = time_in_turns(updates, rounds=3, warm_up=2)
    assert "".join(calls) == "aabb" + 3 * "ab"
    assert [len(own) for own in times] == [3, 3]


def test_a_ratio_does_not_see_that_the_machine_slows_down() -> None:
    update: Any = Named("a", [])
    plain = [1.0, 1.1, 2.0, 4.0, 3.0]
    row = make_row("a", update, [1.5 * t for t in plain], plain)
    assert row.ratio == pytest.approx(1.5)
    assert row.spread == pytest.approx(0.0)


def test_configurations_whose_states_look_alike_take_turns_with_one(
    bench: Workbench, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "lower_step", lambda *_: Counted())
    monkeypatch.setattr(placing, "create", placed)
    config = replace(parse_config(Config, ["--training.batch_size=8"]), model=tiny)
    plain = Update(config, bench)
    noisy = Update(change(config, "loss.token_noise", 0.3), bench)
    average = Update(change(config, "optim.ema_decay", 0.9), bench)
    for update in (plain, noisy, average):
        update()
    assert [int(state.step) for state in bench.states.values()] == [2, 1]
    assert plain.copied_bytes == 2
    assert average.params_bytes == 4 * transformer.count_params(tiny)
    bench.keep_only(plain)
    assert list(bench.states) == [noisy.kind]


def test_updates_with_roots_are_recognised(
    bench: Workbench, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turns(updates: list[Named], rounds: int, warm_up: int) -> list[list[float]]:
        """10 s for Shampoo's updates with roots, which are every third one from the first on; else
        1 s."""
        start = updates[1].finished + warm_up
        return [[0.5] * rounds, [1.0 if i % 3 else 10.0 for i in range(start, start + rounds)]]

    monkeypatch.setattr(options, "Update", lambda config, bench: Named(config.optim.name, []))
    monkeypatch.setattr(options, "time_in_turns", turns)
    config = parse_config(Config, ["--optim.shampoo.roots_every=3"])
    row = measure_shampoo(replace(config, model=tiny), bench, periods=2)
    assert (row.seconds_with_roots, row.seconds_without_roots) == (10.0, 1.0)
    assert (row.seconds, row.ratio) == (4.0, 8.0)
    assert row.roots_share == pytest.approx(0.75)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_a_call_takes_and_gives_back_is_seen() -> None:
    def take(megabytes: int) -> None:
        np.ones(megabytes << 20, np.uint8)

    large, small = (machine.peak_memory(lambda: take(size)) for size in (72, 8))  # noqa: B023
    assert 60 << 20 < large - small < 68 << 20


def test_every_option_can_be_set_on_the_default() -> None:
    plain = benchmark.read_config(benchmark.TrainingBenchmark())
    for values in OPTIONS.values():
        for key, several in values.items():
            assert len({repr(change(plain, key, value)) for value in several}) == len(several)


def test_micro_batches_of_a_preset_do_not_hide_what_accumulation_costs() -> None:
    flags = ("training.batch_size=64", "training.micro_batch_size=64")
    plain = benchmark.read_config(benchmark.TrainingBenchmark(settings=flags))
    chosen = options.choose(plain, "training.accumulation_steps", 4)
    assert micro_batch_size(chosen.training, find_devices(ParallelConfig(devices=1))) == 16


def test_observed_values_are_computed_in_every_timed_update() -> None:
    plain = benchmark.read_config(benchmark.TrainingBenchmark())
    chosen = options.choose(plain, "training.observe", "business")
    assert (chosen.training.observe, chosen.training.observe_every) == ("business", 1)


def test_settings_stand_above_the_preset() -> None:
    preset = str(ROOT / "presets" / "dalle_mini.yaml")
    asked = benchmark.TrainingBenchmark(preset, ("training.batch_size=64",))
    config = benchmark.read_config(asked)
    assert (config.model.dim, config.training.batch_size) == (1024, 64)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match=r"no option 'remta'; there are: remat, layers"):
        parse_config(benchmark.TrainingBenchmark, ["--options", "remta"])
