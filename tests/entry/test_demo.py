"""The demo in the repository draws the named thing, without a checkpoint, training or a network."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import generate
from command_line.parser import parse_config
from generate import DEMO, GenerateConfig
from model import pretrained
from tests.source_tree import ROOT
from vqgan import pretrained as pretrained_vqgan

MOST_BYTES = 45 << 20  # of all weights in the repository together


def test_hearts_have_the_colour_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    prompts = ["a red heart", "a blue heart", "a green heart"]
    words = ["--prompts", *prompts, "--pictures=1", f"--out={tmp_path / 'hearts.png'}"]
    generate.main(parse_config(GenerateConfig, words))
    drawn = sorted((tmp_path / "hearts").glob("*.png"))
    assert len(drawn) == 3
    for number, path in enumerate(drawn):
        middle = np.asarray(Image.open(path).convert("RGB"), float)[48:80, 48:80].mean((0, 1))
        assert middle.argmax() == (0, 2, 1)[number], path.name


@pytest.mark.parametrize("folder", ["demo", DEMO])
def test_it_paints_with_the_general_tokenizer(folder: str) -> None:
    _, demo = pretrained_vqgan.load(ROOT / folder / "vqgan")
    _, general = pretrained_vqgan.load(ROOT / "vqgan" / "general")
    np.testing.assert_array_equal(demo["codebook"], general["codebook"])
    config, _ = pretrained.load(ROOT / folder)
    assert config.image_vocab_size == len(general["codebook"])


def test_all_weights_of_the_repository_are_small() -> None:
    folders = ("demo", "demo_large", "vqgan")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.safetensors")]
    assert len(files) >= 6
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
