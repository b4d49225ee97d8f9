"""The benchmarks run, with shapes that take a second."""

import json
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jax
import pytest

from benchmarks import contestant, data
from benchmarks import sampling as benchmark
from benchmarks.race import configs
from command_line.parser import parse_config
from model import transformer
from model.config import ModelConfig
from tests.tiny import TINY_VQGAN, first_vqgan
from vqgan import pretrained

SIZES = {
    "d_model": 16,
    "enc_layers": 1,
    "dec_layers": 1,
    "heads": 2,
    "ffn": 24,
    "batch": 2,
    "text_vocab": 32,
    "image_vocab": 20,
    "text_len": 6,
    "image_len": 9,
    "dtype": "f32",
    "cond_scale": 3.0,
    "top_k": 5,
    "temperature": 1.0,
    "lr": 1e-2,
    "seed": 0,
}
VQGAN_SIZES = {"ch": 32, "mult": (1, 1), "blocks": 1, "attn": 4, "z": 8, "codes": 16, "px": 8}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the race's folder on sys.path, as a worker does, so that adapters find `configs`."""
    monkeypatch.setitem(sys.modules, "configs", configs)


@pytest.mark.usefixtures("driver")
def test_the_contestant_trains() -> None:
    run, info = contestant.make_train_step(SIZES)
    losses = [run(i) for i in range(5)]
    assert losses[-1] < losses[0] < 4
    assert info["params"] == transformer.count_params(contestant.model_config(SIZES))


@pytest.mark.usefixtures("driver")
@pytest.mark.slow
def test_the_contestant_draws_other_tokens_each_time() -> None:
    run, _ = contestant.make_sampler(SIZES)
    first, second = run(0), run(1)
    assert first.shape == (2, 9)
    assert first.min() >= 0
    assert first.max() < 20
    assert (first != second).any()


def test_the_contestant_encodes_and_decodes() -> None:
    sizes = VQGAN_SIZES | {"image_len": 16, "batch": 2, "seed": 0}
    assert contestant.make_encoder(sizes)[0](0).shape == (2, 16)
    assert contestant.make_decoder(sizes)[0](0).shape == (2, 8, 8, 3)


@pytest.mark.slow
def test_the_sampling_benchmark_prints_a_row_for_each_number_of_pictures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model.dim=16", "--model.encoder_depth=1", "--model.decoder_depth=1"]
    flags += ["--model.num_heads=2", "--model.grid_size=2", "--rounds=1", "--pictures=[1,3]"]
    flags += ["--bandwidth_megabytes=1"]
    benchmark.main(parse_config(benchmark.SamplingBenchmark, flags))
    about, head, _, *rows = capsys.readouterr().out.splitlines()
    assert "GB/s" in about
    assert [row.split("|")[1].strip() for row in rows] == ["1", "3"]
    assert all(row.count("|") == head.count("|") for row in rows)


def test_a_token_needs_the_weights_once_and_the_cache_of_every_row(tiny: ModelConfig) -> None:
    model = transformer.build(tiny)
    params = jax.eval_shape(lambda key: model.lay_out(model.init(key)), jax.random.key(0))
    one, two, three = (benchmark.bytes_per_token(model, params, rows) for rows in (1, 2, 3))
    # Two layers of keys and values, of 6 text tokens and of 5 image tokens on average.
    assert two - one == three - two == 2 * 2 * 16 * 4 * (6 + 5)


def end_at_once(folder: Path, batch_size: int) -> None:
    """Like a process that the system killed."""
    os._exit(9)


def test_a_measurement_whose_process_is_killed_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "measure", end_at_once)
    with pytest.raises(BrokenProcessPool):
        data.measure_alone(tmp_path, 1)


def test_records_are_opened_and_read_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "found.json")
    pretrained.save(tmp_path / "vqgan", TINY_VQGAN, first_vqgan(TINY_VQGAN))
    settings = data.DataBenchmark(400, 300, 16, 0.02, 10, str(tmp_path / "vqgan"), out)
    data.main(settings)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["examples"] for row in found["sizes"]] == [400]
    assert set(found["readers"]) == {"tokenised before", "tokenised on the way"}
    for rates in found["readers"].values():
        assert set(rates) == {"Pastel", "webdataset", "datasets"}
        assert all(one["batch"] > 0 and one["device"] > 0 for one in rates.values())
    assert set(found["encoding"]) == {"16", "64"}
    assert all(one["share"] > 0 for one in found["encoding"].values())
    assert "| 400 |" in capsys.readouterr().out
    assert data.sizes_to(1_000_000) == [10_000, 100_000, 1_000_000]
