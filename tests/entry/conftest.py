"""Fixtures of a tiny untrained run: source, records, VQGAN, tokenizer and one checkpoint."""

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from common.settings import to_yaml
from config import Config
from data.config import DataConfig
from data.encode import main as encode
from data.encoding.config import EncodeConfig
from data.records import open_records
from model.config import ModelConfig, SamplingConfig
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.first_states import sharing
from tests.tiny import ONE_LEVEL_VQGAN, drawn, first_vqgan
from training.config import CheckpointConfig
from training.saved.checkpoint import Checkpoints
from training.saved.runs import copy_once
from training.update.shared import Programs
from training.update.state import TrainState
from vqgan import pretrained as pretrained_vqgan

MODEL = ModelConfig(
    dim=16,
    encoder_depth=1,
    decoder_depth=1,
    num_heads=2,
    mlp_dim=24,
    text_vocab_size=300,
    text_length=8,
    image_vocab_size=40,
    grid_size=2,
)
TONES = {"1": "light", "2": "pale", "3": "tan", "4": "brown", "5": "dark"}


def write_source(path: Path) -> None:
    """Write a tar of bars in five tones. Tone 3 is held out; one picture is only for the
    gallery."""
    with tarfile.open(path, "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for i in range(40):
            concept, tone = f"c{i // 5}", str(i % 5 + 1)
            pixels = np.full((8, 8, 3), 255, np.uint8)
            pixels[:, i // 5] = 40 * (i % 5)
            pixels[i // 5 :: 3, 2:6, 1] = 90
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            split = "tone" if tone == "3" else "gallery" if i == 39 else "train"
            about = {"caption": f"{TONES[tone]} bar {i // 5}", "split": split}
            about |= {"concept": concept, "tone": tone}
            add(f"{i:03d}.png", file.getvalue())
            add(f"{i:03d}.json", json.dumps(about).encode())


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Compiled programs that all whole runs of a worker share."""
    return Programs()


@pytest.fixture(autouse=True)
def share_programs(request: pytest.FixtureRequest, programs: Programs) -> Iterator[None]:
    """All tests share programs, but those marked own_programs, which compile as train.py does."""
    is_own = request.node.get_closest_marker("own_programs") is not None
    with contextlib.nullcontext() if is_own else sharing(programs):
        yield


@pytest.fixture(scope="session")
def records_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token records made from that source."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    write_source(folder / "pictures" / "0.tar")
    pretrained_vqgan.save(folder / "vqgan", ONE_LEVEL_VQGAN, first_vqgan(ONE_LEVEL_VQGAN, seed=1))
    encode(
        EncodeConfig(
            source=(str(folder / "pictures"),),
            out=str(folder / "records"),
            vqgan=str(folder / "vqgan"),
            vocab_size=300,
            text_length=8,
        )
    )
    return folder / "records"


@pytest.fixture(scope="session")
def run_folder(records_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the checkpoint of step 0: random weights."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    sampling = SamplingConfig(guidance_scale=2.0, temperature=1.0)
    data = DataConfig(records=str(records_folder))
    config = Config(model=MODEL, data=data, sampling=sampling)
    (folder / "config.yaml").write_text(to_yaml(config))
    for name in ("tokenizer", "vqgan"):
        copy_once(records_folder / name, folder / name)
    create = partial(TrainState.create, drawn(MODEL), make_optimizer(OptimConfig()))
    state = jax.jit(partial(create, 0))()
    with Checkpoints(folder / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(state, {"records": open_records(records_folder).digest})
    return folder
