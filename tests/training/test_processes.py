"""Processes find each other by their launcher's variables or by flags. Whole runs are in
tests/entry/test_processes.py."""

import socket
from typing import Any

import pytest

from training.config import ParallelConfig
from training.devices import processes
from training.devices.processes import Meeting, find

SLURM = {"SLURM_STEP_NODELIST": "node[01-04]", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.glob, "glob", lambda pattern: [])


def by_hand(**flags: Any) -> ParallelConfig:
    given: dict[str, Any] = {"coordinator": "a:1", "num_processes": 4, "process_id": 3}
    return ParallelConfig(**{**given, **flags})


@pytest.mark.parametrize(
    ("environ", "config", "meeting"),
    [
        ({}, ParallelConfig(), None),
        ({}, by_hand(), Meeting("a:1", 4, 3)),
        ({}, by_hand(process_id=0), Meeting("a:1", 4, 0)),
        ({}, by_hand(num_processes=1, process_id=0), None),
        (SLURM, ParallelConfig(), Meeting(None, 8, 3)),
        (SLURM, ParallelConfig(num_processes=1), None),  # separate runs under one srun
        (POD, ParallelConfig(num_processes=1), None),  # separate runs in one indexed Job
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ParallelConfig(), None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ParallelConfig(), None),  # no srun
        (MPI, ParallelConfig(), Meeting(None, 2, 1)),
        ({**SLURM, **MPI}, ParallelConfig(), Meeting(None, 2, 1)),  # mpirun within SLURM
        (MPI, ParallelConfig(coordinator="b:2"), Meeting("b:2", 2, 1)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ParallelConfig(), None),  # no Job
    ],
)
def test_a_process_knows_where_to_meet(
    environ: dict[str, str], config: ParallelConfig, meeting: Meeting | None
) -> None:
    assert find(config, environ) == meeting


def test_the_first_pod_of_a_job_is_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "train-2.pods.default.svc.cluster.local")
    found = find(ParallelConfig(num_processes=4), POD)
    assert found == Meeting("train-0.pods.default.svc.cluster.local:55527", 4, 2)


def test_clusters_that_jax_detects_are_left_to_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name)
    assert find(ParallelConfig(), POD) == Meeting(
        None, None, None
    )  # jax uses the package kubernetes
    assert find(ParallelConfig(), {}) is None
    monkeypatch.setattr(processes.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert find(ParallelConfig(), {}) == Meeting(None, None, None)  # jax uses libtpu
    assert find(ParallelConfig(), {"JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
    ("environ", "config", "message"),
    [
        ({}, ParallelConfig(num_processes=2), "need all of --parallel.coordinator=HOST:PORT"),
        ({}, by_hand(process_id=4), "process_id 4 is not one of the 4 processes"),
        ({}, by_hand(coordinator="here"), "here has no port .*; try here:12345"),
        ({}, by_hand(coordinator="a:b"), "a:b has no port between 1 and 65535; try a:12345"),
        ({}, by_hand(coordinator="a:65536"), "a:65536 has no port"),
        (POD, ParallelConfig(), "add --parallel.num_processes=N"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
            ParallelConfig(),
            "does not say where it was started; add --parallel.coordinator",
        ),
    ],
)
def test_missing_or_wrong_addresses_are_named(
    environ: dict[str, str], config: ParallelConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find(config, environ)


def test_a_port_of_another_program_is_refused_where_process_0_would_listen() -> None:
    with socket.create_server(("", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"listen at port \d+ \(Address already in use"):
            processes._check_port(Meeting(address, 2, 0), {})
        processes._check_port(Meeting(address, 2, 1), {})  # process 0 may be elsewhere
        processes._check_port(Meeting(address, 2, 0), {processes.BIND_ADDRESS: "[::]:1"})
    processes._check_port(Meeting(address, 2, 0), {})


def test_one_process_needs_nobody() -> None:
    assert processes.from_process_0(lambda: {"a": 1}) == {"a": 1}
    agree = processes.Agreement()
    assert agree(True)
    assert not agree(False)


@pytest.mark.parametrize(
    ("environ", "visible", "message"),
    [
        ({}, "3", ""),  # no launcher: jax decides
        ({**SLURM, "SLURM_STEP_NUM_NODES": "8", "SLURM_GPUS_ON_NODE": "8"}, "all", ""),
        ({**SLURM, "SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "8"}, "3", "8 GPUs and 2 processes"),
        ({**SLURM, "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "8"}, "3", ""),
        ({**SLURM, "SLURM_NNODES": "8", "JAX_LOCAL_DEVICE_IDS": "3"}, "3", ""),
        ({**SLURM, **MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all", ""),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "3", ""),
    ],
)
def test_the_only_process_of_a_node_takes_all_its_gpus(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    visible: str,
    message: str,
) -> None:
    seen = dict.fromkeys(("jax_cuda_visible_devices", "jax_rocm_visible_devices"), "3")
    monkeypatch.setattr(processes.jax.config, "update", seen.__setitem__)
    processes._take_own_gpus(environ)
    assert set(seen.values()) == {visible}
    error = capsys.readouterr().err
    assert message in error
    assert bool(message) == bool(error)
