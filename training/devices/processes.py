"""Several processes that train one run, each with its own devices.

All are started with the same command, and joined by jax.distributed. Only process 0 does work such
as making the run's folder; it sends the result, or the error, to the others.
"""

import atexit
import glob
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training import exits
from training.config import ParallelConfig
from training.devices.relay import Lost, relayed

T = TypeVar("T")
MEETING_SECONDS = 300
BAD_CAST = "bad_cast"  # how jaxlib 0.10.2 says that the time is over; see aborts.py
BIND_ADDRESS = "JAX_COORDINATOR_BIND_ADDRESS"
HEARTBEAT_SECONDS = 60
"""jax gives a silent process up after this time, such as one without power. A killed one is noticed
by its connections, at once. A process that stalls for less than half of it, on a busy machine,
lives on."""
KUBERNETES_PORT = 55527
MESSAGE_BYTES = 4096


class Meeting(NamedTuple):
    """The arguments of jax.distributed.initialize; it finds those that are None."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def join(config: ParallelConfig, lost: Lost) -> None:
    """Join the other processes, if there are any. No jax computation may have run before.

    After it, only process 0 prints to stdout, and `lost` is called when process 0 dies, or when jax
    loses another process.

    Raises:
        ValueError: the processes cannot be identified, or some do not appear.
    """
    meeting = find(config, os.environ)
    if meeting is None:
        return
    _check_port(meeting, os.environ)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # CPUs would run programs side by side, in another order in each process: a deadlock.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        with relayed(lost):
            jax.distributed.initialize(
                *meeting,
                initialization_timeout=MEETING_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            )
    except RuntimeError as error:
        atexit.register(exits.end_now, exits.REFUSED)  # jax would wait for the others
        reason = _timed_out(meeting) if BAD_CAST in str(error) else str(error).splitlines()[0]
        raise ValueError(f"the processes of this run could not connect: {reason}") from None
    _take_own_gpus(os.environ)
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _check_port(meeting: Meeting, environ: Mapping[str, str]) -> None:
    """Raise ValueError if another program has the port of process 0, this one; jax crashes then."""
    if meeting.process_id != 0 or not meeting.coordinator or BIND_ADDRESS in environ:
        return
    port = meeting.coordinator.rpartition(":")[2]
    try:
        socket.create_server(("", int(port))).close()
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen at port {port} ({error.strerror}); choose a free port for "
            "--parallel.coordinator=HOST:PORT"
        ) from None


def _timed_out(meeting: Meeting) -> str:
    count = "all" if meeting.num_processes is None else f"all {meeting.num_processes}"
    place = meeting.coordinator or "the coordinator"
    return (
        f"not {count} of them reached {place} within {MEETING_SECONDS} s; start the same command "
        "in each, with its own number, and check that process 0 has this address and an open port"
    )


def find(config: ParallelConfig, environ: Mapping[str, str]) -> Meeting | None:
    """The meeting point with the other processes, from flags and the launcher's variables; None if
    this process is alone. num_processes=1 overrides the launcher, for several runs under one
    srun."""
    if config.num_processes == 1 and config.process_id in (None, 0):
        return None
    given = Meeting(config.coordinator, config.num_processes, config.process_id)
    meeting = next((m for search in LAUNCHERS if (m := search(given, environ)) is not None), None)
    if meeting is None and given == Meeting(None, None, None):
        return None
    known = meeting or given
    coordinator = given.coordinator or known.coordinator
    count = given.num_processes or known.num_processes
    number = known.process_id if given.process_id is None else given.process_id
    if meeting is None and None in (coordinator, count, number):
        raise ValueError(
            "without a launcher that sets them, processes need all of --parallel.coordinator="
            "HOST:PORT, --parallel.num_processes and --parallel.process_id"
        )
    if count is not None and number is not None and not 0 <= number < count:
        raise ValueError(
            f"parallel.process_id {number} is not one of the {count} processes, which count from 0"
        )
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise ValueError(
                f"parallel.coordinator {coordinator} has no port between 1 and 65535; try "
                f"{host or coordinator}:12345"
            )
    return None if count == 1 else Meeting(coordinator, count, number)


def _slurm(given: Meeting, environ: Mapping[str, str]) -> Meeting | None:
    """One task of `srun`; jax finds the first node of the step."""
    count = _num_tasks(environ)
    return None if count is None else Meeting(None, count, int(environ["SLURM_PROCID"]))


def _take_own_gpus(environ: Mapping[str, str]) -> None:
    """Set the GPUs of this process under srun and mpirun. By default jax gives each process the GPU
    with its number on the node, which suits one process per GPU. A process that is alone on its
    node gets all GPUs. Unused GPUs are reported."""
    count = processes_on_node(environ)
    if count is None or "JAX_LOCAL_DEVICE_IDS" in environ:
        return
    if count == 1:
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")
    gpus = environ.get("SLURM_GPUS_ON_NODE", "")
    if gpus.isdecimal() and 1 < count < int(gpus):
        print(
            f"warning: this node has {gpus} GPUs and {count} processes, which take one each; start "
            f"one process a GPU (srun --ntasks-per-node={gpus}), or one a node, which takes all",
            file=sys.stderr,
        )


def processes_on_node(environ: Mapping[str, str]) -> int | None:
    """The number of processes that srun or mpirun started on this node; None without a launcher."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environ:
        return int(environ["OMPI_COMM_WORLD_LOCAL_SIZE"])
    count = _num_tasks(environ)
    nodes = environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", "1"))
    return None if count is None else max(count // int(nodes), 1)


def _num_tasks(environ: Mapping[str, str]) -> int | None:
    """The number of tasks of a step of `srun`."""
    if "SLURM_STEP_NODELIST" not in environ or "SLURM_PROCID" not in environ:
        return None
    return int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1")))


def _open_mpi(given: Meeting, environ: Mapping[str, str]) -> Meeting | None:
    """One rank of `mpirun`. Up to version 4, jax finds the host where mpirun was started."""
    if "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    count, rank = int(environ["OMPI_COMM_WORLD_SIZE"]), int(environ["OMPI_COMM_WORLD_RANK"])
    if count > 1 and given.coordinator is None and "OMPI_MCA_orte_hnp_uri" not in environ:
        raise ValueError(
            "this mpirun does not say where it was started; add --parallel.coordinator=HOST:PORT "
            "with the host of rank 0"
        )
    return Meeting(None, count, rank)


def _kubernetes(given: Meeting, environ: Mapping[str, str]) -> Meeting | None:
    """One pod of an indexed Job with a headless service as its subdomain. jax asks for the number
    of pods, with the package kubernetes and permission to read pods and jobs."""
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    if given.num_processes is None:
        if importlib.util.find_spec("kubernetes"):
            return Meeting(None, None, None)
        raise ValueError(
            "a Kubernetes Job does not give its pods their number; add "
            "--parallel.num_processes=N (spec.completions), or install the package kubernetes"
        )
    index = environ["JOB_COMPLETION_INDEX"]
    pod, _, domain = socket.getfqdn().partition(".")
    first = f"{pod.removesuffix(f'-{index}')}-0"
    return Meeting(f"{first}.{domain}:{KUBERNETES_PORT}", given.num_processes, int(index))


def _tpu_pod(given: Meeting, environ: Mapping[str, str]) -> Meeting | None:
    """One machine of a TPU pod. libtpu and the machine's metadata name the others."""
    is_tpu = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    is_wanted = environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")
    if is_tpu and is_wanted and importlib.util.find_spec("libtpu"):
        return Meeting(None, None, None)
    return None


# Within SLURM, ranks of mpirun have the environment of its daemon, which is a task of srun.
LAUNCHERS = (_open_mpi, _slurm, _kubernetes, _tpu_pod)


def from_process_0(make: Callable[[], T]) -> T:
    """The result of `make()`, which only process 0 calls; it must be serialisable as JSON, as which
    the others get it. If `make` raises ValueError there, every process does. Collective."""
    if jax.process_count() == 1:
        return make()
    message: dict[str, object] = {}
    if jax.process_index() == 0:
        try:
            message = {"value": make()}
        except (ValueError, OSError) as error:
            message = {"error": str(error)[: MESSAGE_BYTES // 8]}
    text = json.dumps(message).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    sent = multihost_utils.broadcast_one_to_all(np.frombuffer(text.ljust(size)[:size], np.uint8))
    heard = json.loads(np.asarray(sent).astype(np.uint8).tobytes())
    if "error" in heard:
        raise ValueError(heard["error"])
    return heard["value"]


def in_all_processes(is_well: bool) -> bool:
    """True if `is_well` is True in all processes. Collective."""
    if jax.process_count() == 1:
        return is_well
    return bool(multihost_utils.process_allgather(np.array(is_well)).all())


class Agreement:
    """An agreement of all processes on a request, such as to stop. If any process requests it in a
    call, all get True in their next call. No process waits, because answers come one call later."""

    def __init__(self) -> None:
        self._mesh = Mesh(np.array(jax.devices()), ("all",))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(self._mesh, PartitionSpec()))
        self._asked: jax.Array | None = None

    def __call__(self, wish: bool) -> bool:
        if jax.process_count() == 1:
            return wish
        dealt = NamedSharding(self._mesh, PartitionSpec("all"))
        wishes = np.full(jax.local_device_count(), wish)
        before = self._asked
        self._asked = self._any(jax.make_array_from_process_local_data(dealt, wishes))
        return before is not None and bool(before)

    def forget(self) -> None:
        """Drop the request of the last call, in every process."""
        self._asked = None
