"""The release folder of a finished run, and the evaluation of its stored weights."""

from collections.abc import Mapping
from pathlib import Path

from vqgan import model_card, pretrained
from vqgan.autoencoder import Autoencoder
from vqgan.config import VQGANConfig
from vqgan.layers import Params
from vqgan.pictures import Pictures
from vqgan.reconstructions import make_figures, make_reconstruction


def release(
    model: VQGANConfig,
    autoencoder: Autoencoder,
    params: Params,
    sets: Mapping[str, Pictures],
    folder: Path,
) -> None:
    """Write FOLDER/vqgan with a card. Its figures are measured on the pictures in `sets`, with the
    float16 weights that are stored."""
    out = folder / "vqgan"
    pretrained.save(out, model, params)
    _, params = pretrained.load(out)
    figures = make_figures(make_reconstruction(autoencoder), sets, model.codebook_size)(params)
    model_card.write(out, folder, model, figures, {k: len(v) for k, v in sets.items()})
    print(f"{out}: PSNR {figures['eval/all/psnr']:.2f} dB, SSIM {figures['eval/all/ssim']:.4f}")
