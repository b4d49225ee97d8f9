"""kill -9 during encoding, by one process and by two: the records have the same bytes."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from data import encode
from data.encoding.config import EncodeConfig
from tests.data.samples import picture
from tests.data.test_shards import content
from tests.entry.test_processes import finish, start_both
from tests.tiny import TINY_VQGAN
from vqgan import autoencoder, pretrained

pytestmark = pytest.mark.slow
COUNT, SHARD, KILLS = 600, 5, 20


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, a VQGAN, and the records of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "pictures").mkdir()
    for i in range(COUNT):
        (folder / "pictures" / f"{i:04}.png").write_bytes(picture(i, (40, 30)))
        (folder / "pictures" / f"{i:04}.txt").write_text(f"noise number {i}")
    params = autoencoder.build(TINY_VQGAN).init(jax.random.key(0))
    pretrained.save(folder / "vqgan", TINY_VQGAN, params)
    encode.main(EncodeConfig(**settings(folder, "straight")))
    return folder


def settings(folder: Path, out: str) -> dict:
    return {
        "source": (str(folder / "pictures"),),
        "out": str(folder / out),
        "vqgan": str(folder / "vqgan"),
        "vocab_size": 300,
        "shard_size": SHARD,
    }


def words(folder: Path, out: str) -> list[str]:
    given = settings(folder, out) | {"source": str(folder / "pictures")}
    return ["-m", "data.encode", *(f"--{name}={value}" for name, value in given.items())]


@pytest.mark.parametrize("count", [1, 2])
def test_kills_change_no_byte(
    count: int, job: Path, record_property: Callable[[str, object], None]
) -> None:
    out, rng, kept, kills = job / f"by{count}", random.Random(count), 0, 0
    parts = job / f"by{count}.parts"
    for _ in range(KILLS):
        begun = start_both(*words(job, out.name), count=count)
        wanted = min(kept + rng.randrange(1, 3), COUNT // SHARD)
        while len(list(parts.glob("*.shard"))) < wanted and begun[0].poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        begun[rng.randrange(count)].send_signal(signal.SIGKILL)
        ended = finish(begun, 120)
        kills += any(status < 0 for status, _, _ in ended)
        kept = len(list(parts.glob("*.shard")))
        if kept == COUNT // SHARD:  # all is encoded: begin again
            shutil.rmtree(parts)
            kept = 0
    ended = finish(start_both(*words(job, out.name), count=count), 240)
    assert [status for status, _, _ in ended] == [0] * count, ended
    assert content(out) == content(job / "straight")
    assert not parts.exists()
    record_property("figure", f"encoding by {count}: {kills} × kill -9, the same bytes")
    shutil.rmtree(out)
