"""Checkpoints in an object store (gs://, s3://), for processes without a common disk.

Every array is a Zarr, chunked as it is sharded over the devices. Each process writes its chunks and
then a marker. A step is complete when all markers exist, because a store can replace single objects
but rename none. Tensorstore accesses Google Cloud Storage and S3; orbax (0.12.8) does not support
S3. A file:// URL behaves like such a store.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tensorstore as ts
from jaxtyping import PyTree

from common.json_files import Json
from common.trees import named_leaves
from training.devices.processes import in_all_processes

Store = ts.KvStore
SCHEMES = ("gs://", "s3://", "file://")
RETRIES = {"max_retries": 7, "initial_delay": "500ms", "max_delay": "8s"}  # about half a minute
READERS = 8
"""Arrays that are read at the same time."""
PIECE_BYTES = 128 * 2**20
"""Largest chunk: S3 accepts at most 5 GB at once, and several chunks at a time are faster."""
UNREACHABLE = (
    *("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"),
    *("PERMISSION_DENIED", "UNAUTHENTICATED", "INTERNAL"),
)
"""Words in tensorstore's errors that are about the store, not about an object."""


class UnreachableError(OSError):
    """A store that does not answer or refuses access; its objects may be undamaged."""


def is_remote(place: object) -> bool:
    """True if the place is a URL of an object store."""
    return str(place).startswith(SCHEMES)


def open_store(place: str) -> Store:
    """The objects below a URL, or the files of a folder. Credentials are found in the same way as
    by Google's and Amazon's tools; AWS_ENDPOINT_URL names another server with the S3 protocol.

    Raises:
        ValueError: the place does not exist.
    """
    url = place if is_remote(place) else f"file://{Path(place).resolve()}"
    try:
        return _open_store(url.rstrip("/") + "/")
    except (ValueError, NotImplementedError) as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint.folder {place} cannot be opened: {text}") from None


def _open_store(url: str) -> Store:
    path = url.removeprefix("file://")
    spec = ts.KvStore.Spec(url if path == url else {"driver": "file", "path": path}).to_json()
    if spec["driver"] == "s3":
        env = os.environ
        endpoint = env.get("AWS_ENDPOINT_URL_S3", env.get("AWS_ENDPOINT_URL"))
        region = env.get("AWS_REGION", env.get("AWS_DEFAULT_REGION"))
        given = {"endpoint": endpoint, "aws_region": region or (endpoint and "us-east-1")}
        spec |= {name: value for name, value in given.items() if value}
        if "AWS_ACCESS_KEY_ID" in env:  # and say nothing of files that are not needed
            spec["aws_credentials"] = {"type": "environment"}
    context = {f"{name}_request_retries": RETRIES for name in ("s3", "gcs")}
    return ts.KvStore.open(spec, context=ts.Context(context)).result()


def below(prefix: str) -> ts.KvStore.KeyRange:
    """The range of names that begin with `prefix`, which ends with a slash."""
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord("/") + 1))


def names(store: Store, prefix: str) -> list[str]:
    """The names below `prefix`, without it.

    Raises:
        UnreachableError: the store cannot be reached.
    """
    with reachable(store, "NOT_FOUND"):  # the bucket
        keys = store.list(below(prefix)).result()
    return [name.decode()[len(prefix) :] for name in keys]


@contextlib.contextmanager
def reachable(store: Store, *more: str) -> Iterator[None]:
    """A context that turns a store's errors with words of UNREACHABLE, or of `more`, into an
    UnreachableError of one line."""
    try:
        yield
    except Exception as error:
        if not str(error).startswith((*UNREACHABLE, *more)):
            raise
        text = " ".join(str(error).partition(" [")[0].split())[:300]
        raise UnreachableError(f"{address(store)} cannot be reached: {text}") from None


def address(store: Store) -> str:
    """The URL of a store, such as gs://bucket/path."""
    spec = store.spec().to_json()
    scheme = {"gcs": "gs", "gcs_grpc": "gs"}.get(spec["driver"], spec["driver"])
    return f"{scheme}://{spec.get('bucket', '')}{'/' if 'bucket' in spec else ''}{spec['path']}"


class _Copy(NamedTuple):
    """A copy of the part of an array that this process writes, because training reuses the memory
    of the array."""

    shape: tuple[int, ...]
    """Of the whole array."""
    dtype: np.dtype
    chunk: tuple[int, ...]
    """Shape of the chunks in the store."""
    shards: list[tuple[tuple[slice, ...], np.ndarray]]
    """(place in the array, values) of each shard that this process writes."""


class ObjectSteps:
    """A `StepStore` (steps.py) of objects: STEP/… and whole/STEP.PROCESS-of-PROCESSES."""

    def __init__(self, url: str) -> None:
        self._store = open_store(url)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def name(self, step: int) -> str:
        return f"{address(self._store)}{step}"

    def steps(self) -> list[int]:
        parts: dict[tuple[int, int], int] = {}
        for name in names(self._store, "whole/"):
            step, count = int(name.partition(".")[0]), int(name.rpartition("-")[2])
            parts[step, count] = parts.get((step, count), 0) + 1
        return sorted({step for (step, count), present in parts.items() if present == count})

    def save(
        self, step: int, items: Mapping[str, PyTree], record: Json, first: Callable[[], None]
    ) -> None:
        problem = None
        if jax.process_index() == 0:
            try:
                self.delete(step)  # the rest of an interrupted save
            except Exception as error:
                problem = error
        if not in_all_processes(problem is None):
            raise problem or UnreachableError("process 0 cannot reach it")
        copies = {object_name(name): _copy(leaf) for name, leaf in named_leaves(items)}
        self._writing = self._thread.submit(self._write, step, copies, record, first)

    def _write(
        self, step: int, copies: Mapping[str, _Copy], record: object, first: Callable[[], None]
    ) -> None:
        first()
        me, is_first = jax.process_index(), jax.process_index() == 0
        writes = []
        for name, copy in copies.items():
            if not copy.shards and not is_first:
                continue
            # Process 0 writes an array's metadata; the others trust it.
            array = ts.open(
                {"driver": "zarr3", "store_data_equal_to_fill_value": True},
                kvstore=self._store / f"{step}/{name}/",
                dtype=ts.dtype(copy.dtype),
                shape=copy.shape,
                chunk_layout=ts.ChunkLayout(chunk_shape=copy.chunk),
                create=is_first,
                open=not is_first,
                assume_metadata=not is_first,
            ).result()
            writes += [array[index].write(data) for index, data in copy.shards]
        problems = [write.exception() for write in writes]  # none is under way after this
        if failed := [problem for problem in problems if problem is not None]:
            raise failed[0]
        if is_first:
            self._store.write(f"{step}/about.json", json.dumps(record)).result()
        self._store.write(f"whole/{step}.{me}-of-{jax.process_count()}", b"whole").result()

    def wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        problem = None
        try:
            with reachable(self._store):
                writing.result()
        except Exception as error:
            problem = error
        if not in_all_processes(problem is None):
            raise problem or UnreachableError("another process could not write its part")

    def clean(self, step: int) -> None:
        if jax.process_index() == 0:
            with contextlib.suppress(Exception):
                self.delete(step)

    def delete(self, step: int) -> None:
        # The markers first, so that the step no longer counts.
        with reachable(self._store):
            for name in names(self._store, "whole/"):
                if name.startswith(f"{step}."):
                    self._store.write(f"whole/{name}", None).result()
            self._store.delete_range(below(f"{step}/")).result()

    def tidy(self) -> None:
        with reachable(self._store, "NOT_FOUND"):
            beginnings = {name.decode().partition("/")[:2] for name in self._store.list().result()}
            begun = {int(first) for first, slash in beginnings if slash and first.isdecimal()}
            for step in begun - set(self.steps()):
                self._store.delete_range(below(f"{step}/")).result()

    def set_aside(self, step: int) -> None:
        self._store.delete_range(below(f"aside-{step}/")).result()
        for name in names(self._store, f"{step}/"):
            data = self._store.read(f"{step}/{name}").result().value
            self._store.write(f"aside-{step}/{name}", data).result()
        self.delete(step)

    def record(self, step: int) -> Json:
        with reachable(self._store):
            return json.loads(self._store.read(f"{step}/about.json").result().value)

    def restore(self, step: int, wanted: Mapping[str, PyTree]) -> dict[str, PyTree]:
        def read(path: str, like: PyTree) -> jax.Array:
            array = ts.open(
                {"driver": "zarr3", "fill_missing_data_reads": False},
                kvstore=self._store / f"{step}/{object_name(path)}/",
                dtype=ts.dtype(like.dtype),
                shape=like.shape,
                open=True,
            ).result()
            return jax.make_array_from_callback(
                like.shape, like.sharding, lambda index: array[index].read().result()
            )

        with reachable(self._store), ThreadPoolExecutor(READERS) as readers:
            leaves = list(readers.map(lambda named: read(*named), named_leaves(wanted)))
        return jax.tree.unflatten(jax.tree.structure(wanted), leaves)

    def reload(self) -> None:
        """Nothing: no list of steps is cached."""

    def close(self) -> None:
        self._thread.shutdown()


def object_name(path: str) -> str:
    """The object name of the array at a path, such as params/a/kernel or
    rest/opt_state/0/mu/a/kernel, without characters that are special to stores or their tools."""
    return re.sub(r"\W+", "/", path).strip("/")


def _chunk_shape(leaf: jax.Array) -> tuple[int, ...]:
    """The shape of the chunks: the shape of the shards on the devices, or a part of it."""
    shape = [max(size, 1) for size in leaf.sharding.shard_shape(leaf.shape)]
    for axis in range(leaf.ndim):
        while math.prod(shape) * leaf.dtype.itemsize > PIECE_BYTES and shape[axis] % 2 == 0:
            shape[axis] //= 2
    return tuple(shape)


def _copy(leaf: jax.Array) -> _Copy:
    first_copies = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    shards = [(shard.index, np.array(shard.data)) for shard in first_copies]
    return _Copy(leaf.shape, leaf.dtype, _chunk_shape(leaf), shards)
