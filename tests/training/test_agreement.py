"""What processes compare when they meet. tests/entry/test_processes.py has real processes."""

from pathlib import Path

import jax
import numpy as np
import pytest

from config import Config
from training.config import ParallelConfig
from training.devices import agreement


def test_settings_agree_up_to_who_and_where_a_process_is() -> None:
    parallel = ParallelConfig(coordinator="a:1", num_processes=2, process_id=1)
    one, other = Config(), Config(parallel=parallel, seed=3)
    found = agreement.settings_of(one), agreement.settings_of(other)
    differing = {name for name in found[0] if found[0][name] != found[1][name]}
    assert differing == {"seed", "parallel.num_processes"}


def test_each_source_file_counts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "train.py").write_text("a = 1\n")
    (tmp_path / "model" / "blocks.py").write_text("b = 1\n")
    before = agreement.code(tmp_path)
    (tmp_path / "model" / "blocks.py").write_text("b = 2\n")
    after = agreement.code(tmp_path)
    assert set(before) == {"the file train.py", "the file model/blocks.py"}
    assert {name for name in before if before[name] != after[name]} == {"the file model/blocks.py"}
    assert {"the file train.py", "the file training/update/step.py"} <= set(agreement.code())


def test_where_xla_writes_does_not_count_and_what_it_computes_does() -> None:
    flags = "--xla_a=1 --xla_b=2"
    found = agreement.environment({"XLA_FLAGS": f"--xla_dump_to=/tmp/0 {flags}", "HOME": "/a"})
    same = agreement.environment({"XLA_FLAGS": "--xla_b=2 --xla_a=1", "JAX_PROCESS_ID": "1"})
    assert found == same
    other = agreement.environment({"XLA_FLAGS": flags, "JAX_ENABLE_X64": "1"})
    assert {name for name in found if found[name] != other[name]} == {"JAX_ENABLE_X64"}


def test_settings_that_differ_from_process_0_are_named() -> None:
    same = {"seed": "0", "name": '"a"'}
    text = agreement.describe([same, same, {**same, "seed": "1"}])
    assert "do not agree: seed (0 in process 0, 1 in process 2); " in text
    assert "--parallel.num_processes=1" in text
    many = agreement.describe([{}, {f"s{n}": "1" for n in range(9)}])
    assert "s5 (nothing in process 0, 1 in process 1), and 3 more;" in many


def two_processes(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """Pretend that another process has the text `other`."""

    def gather(array: np.ndarray) -> np.ndarray:
        data = np.frombuffer(other.encode(), np.uint8)
        if np.ndim(array) == 0:
            return np.array([array, len(data)])
        width = max(len(array), len(data))
        return np.stack([np.resize(array, width), np.pad(data, (0, width - len(data)))])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement.multihost_utils, "process_allgather", gather)


def test_an_error_of_one_process_is_raised_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agreement.call_in_all(lambda: 3) == 3
    two_processes(monkeypatch, "no such file")
    with pytest.raises(ValueError, match="process 1: no such file"):
        agreement.call_in_all(lambda: 3)
    two_processes(monkeypatch, "")
    assert agreement.call_in_all(lambda: 3) == 3
