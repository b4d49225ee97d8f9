"""experiments.footprint: the memory of a training step on devices that this machine lacks."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from command_line.parser import parse_config
from experiments import footprint
from experiments.footprint import FootprintConfig
from training.config import TrainingConfig
from training.devices import fitting
from training.reports.flops import count_flops

ROOT = Path(__file__).parent.parent.parent
TINY = """\
model: {dim: 32, encoder_depth: 2, decoder_depth: 2, num_heads: 4, mlp_dim: 48, unroll: 1,
  text_vocab_size: 32, text_length: 6, image_vocab_size: 20, grid_size: 3}
training: {batch_size: 8}
"""
LIBTPU = os.environ.get("PASTEL_LIBTPU", "")
"""A folder with libtpu, if it is not installed."""


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


FLAGS = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
"""XLA's flags of these tests, without the number of devices, which the program sets itself."""


def command(*words: object, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments.footprint", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": FLAGS, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("devices", "cuts", "mesh"),
    [
        (4, ["--fsdp=2"], "2 data × 2 fsdp × 1 tensor"),
        pytest.param(
            8,
            ["--fsdp=2", "--tensor=2", "--accumulation_steps=2"],
            "2 data × 2 fsdp × 2 tensor",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mesh_is_compiled_for_without_copies_of_whole_activations(
    preset: Path, devices: int, cuts: list[str], mesh: str
) -> None:
    """The compiler warns of them on stderr, unless it finds its work done in the cache."""
    done = command(
        *(preset, f"--topology=cpu:{devices}", *cuts),
        TF_CPP_MIN_LOG_LEVEL="0",
        JAX_ENABLE_COMPILATION_CACHE="false",
    )
    assert done.returncode == 0, done.stderr
    assert f"{devices} × cpu as {mesh}" in done.stdout
    assert "GB  a device in all" in done.stdout
    assert "FLOPs an update" in done.stdout
    assert "rematerialization" not in done.stderr
    assert "pjrt" in done.stderr  # it would have said so


def test_a_model_that_does_not_fit_is_refused_with_the_excess(preset: Path) -> None:
    config = parse_config(FootprintConfig, [str(preset), "--topology=cpu:4", "--memory_gib=0.0001"])
    with pytest.raises(ValueError, match=r"it does not fit: .* of 0.000 GB, 0.00\d GB too much"):
        footprint.main(config)


def test_a_named_batch_takes_the_place_of_a_ramp_and_named_parts_of_a_micro_batch() -> None:
    own = TrainingConfig(batch_size=8, batch_ramp=("10:16",), micro_batch_size=2)
    found = footprint.override(own, FootprintConfig("", batch_size=32, accumulation_steps=4))
    assert found == TrainingConfig(batch_size=32, accumulation_steps=4)
    assert footprint.override(own, FootprintConfig("")) == own


def test_a_device_of_unknown_memory_is_refused_without_a_number() -> None:
    with pytest.raises(ValueError, match="memory of a TPU v99 is not known; .* --memory_gib"):
        footprint.memory_of(SimpleNamespace(device_kind="TPU v99", platform="tpu"))
    assert footprint.memory_of(SimpleNamespace(device_kind="TPU v4", platform="tpu")) == 32
    assert footprint.memory_of(jax.devices("cpu")[0]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=cpu:0"], "cpu:N with N at least 1"),
        (["--topology=cpu:9"], "jax has started with 4"),
        (["--topology=cpu:4", "--fsdp=3"], "parallel.fsdp 3 .* does not divide 4"),
        (["--topology=cpu:4", "--batch_size=10"], "try 8"),
    ],
)
def test_wrong_topologies_are_one_line(preset: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        footprint.main(parse_config(FootprintConfig, [str(preset), *flags]))


def test_a_missing_libtpu_is_reported_with_the_command(
    preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(footprint.os, "environ", {})
    with pytest.raises(ValueError, match=r'needs libtpu: pip install "jax\[tpu\]"'):
        footprint.main(parse_config(FootprintConfig, [str(preset), "--topology=v4:4x4x4"]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("HLO temporaries (35.75G) exceeds available HBM (15.75G).", "38.655 GB too much"),
        ("Used 20.00G of 15.75G hbm. Exceeded hbm capacity by 4.25G.", "4.563 GB too much"),
        ("something else", "it does not compile: something else"),
    ],
)
def test_the_compilers_own_words_are_understood(words: str, expected: str) -> None:
    assert expected in fitting.say_by_how_much(words, 16.0)


def test_flops_of_loops_branches_and_recomputation_are_counted() -> None:
    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    product = 2 * 3 * 4 * 5
    assert count_flops(lambda a, b: a @ b, a, b) == product

    def loop(a, b):
        return jax.lax.scan(lambda x, _: (x + (a @ b).sum(), None), 0.0, length=7)[0]

    assert count_flops(loop, a, b) == 7 * product
    branch = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((3, 5)))  # noqa: E731
    assert count_flops(branch, a, b) == product
    squares = lambda a, b: jnp.square(a @ b).sum()  # noqa: E731
    plain = count_flops(jax.grad(squares), a, b)
    assert plain == 2 * product
    assert count_flops(jax.grad(jax.checkpoint(squares)), a, b) == 3 * product
    picture, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 6))
    names = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=names
    )
    assert count_flops(convolve, picture, kernel) == 2 * 8 * 8 * 6 * 3 * 3 * 2


@pytest.mark.slow
@pytest.mark.skipif(
    not LIBTPU and importlib.util.find_spec("libtpu") is None, reason="needs jax[tpu]"
)
@pytest.mark.parametrize(("topology", "fits"), [("v4:4x4x4", True), ("v5e:2x2", False)])
def test_billions_of_parameters_fit_a_pod_and_not_four_chips(topology: str, fits: bool) -> None:
    path = os.pathsep.join(filter(None, [LIBTPU, os.environ.get("PYTHONPATH")]))
    done = command("presets/billions_6_7.yaml", f"--topology={topology}", PYTHONPATH=path)
    print(done.stdout, done.stderr)
    assert done.returncode == (0 if fits else 2)
    assert ("it does not fit" in done.stderr) != fits
