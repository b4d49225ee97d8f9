"""Settings of all tests: four CPU devices, shapes checked at run time, one compilation cache."""

import gc
import os
import sys
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Tiny models take longer to compile than to run. Without LLVM's optimisations they compile 2–3
# times faster, and another 2–3 times with XLA's older code for fused loops, if this version still
# has it. One object file per program takes 20 % less CPU time than 32, which must be linked.
FLAGS = [
    "--xla_force_host_platform_device_count=4",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", WANDB_MODE="offline")

# A program that a test starts compiles 150 modules of ours, a second, where no bytecode is kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import runtime

runtime.prepare()

import jaxtyping
from jaxtyping import install_import_hook

# Modules with command-line configurations are excluded: the hook shifts the lines of their classes,
# and on Python 3.13 inspect would not find the docstrings that --help prints.
WITH_FLAGS = {
    *("artists", "check", "config", "emoji", "encode", "encoding", "recipe", "sets", "train"),
}
PACKAGES = ("clip", "data", "model", "optim", "published", "training", "vqgan", "weights")
FILES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
NAMES = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in FILES]
CHECKED = [
    name
    for name, path in zip(NAMES, FILES, strict=True)
    if name.split(".")[-1] not in WITH_FLAGS and "jaxtyping" in path.read_text()
]
"""Files without shapes are left to mypy: the checks of plain types cost each worker seconds."""
WHOLE_RUNS = {"app", "benchmarks", "drills", "entry", "experiments", "trials"}
WHOLE_RUNS |= {"test_train.py", "test_training.py", "test_session.py", "test_shared.py"}
WHOLE_RUNS |= {"test_parallel.py", "test_parallel_memory.py", "test_parallel_shampoo.py"}
WHOLE_RUNS |= {"test_additive.py", "test_frozen.py", "test_ramps.py", "test_step.py"}
WHOLE_RUNS |= {"test_adapters.py", "test_adversarial.py", "test_averaging.py", "test_dalle_mini.py"}
WHOLE_RUNS |= {"test_mup.py", "test_observe_levels.py", "test_parallel_optimizers.py"}
WHOLE_RUNS |= {"test_published.py", "test_sampling.py", "test_shampoo_reference.py"}
WHOLE_RUNS |= {"test_statistics.py", "test_fixed.py"}
"""Folders and files whose tests start whole programs, or compile whole updates, models or samplers.
model/test_transformer.py and test_row_sampling.py, vqgan/test_autoencoder.py and
optim/test_shampoo.py call the same functions with checks."""
install_import_hook(CHECKED, "beartype.beartype")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

from model.config import ModelConfig
from tests.tiny import TINY

# Tracing makes and drops hundreds of thousands of small objects, few of them in cycles. With
# Python's default thresholds a fifth of the time goes into garbage collection.
gc.set_threshold(50_000, 20, 50)


LONGEST = (
    *("vqgan/test_train.py", "entry/test_processes.py", "model/test_transformer.py"),
    *("training/test_parallel.py", "published/test_dalle_mini.py", "entry/test_train.py"),
    *("model/test_sampling.py", "training/test_parallel_memory.py", "training/test_session.py"),
    *("vqgan/test_adversarial.py", "training/test_step.py", "entry/test_notebooks.py"),
    *("vqgan/test_fixed.py", "benchmarks/test_benchmarks.py", "entry/test_generate.py"),
)
"""Files of ten seconds or more. They start first: at the end, one would leave a core idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay together and in order."""
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """Freeze the imported modules: they live to the end, so collections need not visit them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Switch shape checks off for tests of whole runs. Other tests check the same functions, and
    the checks double the time of tracing."""
    jaxtyping.config.update(
        "jaxtyping_disable", bool({item.path.parent.name, item.path.name} & WHOLE_RUNS)
    )
    return (yield)


@pytest.fixture
def tiny() -> ModelConfig:
    """A model that compiles in a second."""
    return TINY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that the drills measured: each is the property "figure" of its test."""
    passed = sorted(terminalreporter.stats.get("passed", []), key=lambda report: report.nodeid)
    properties = [one for report in passed for one in report.user_properties]
    if figures := [text for name, text in properties if name == "figure"]:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.write_line(text)
