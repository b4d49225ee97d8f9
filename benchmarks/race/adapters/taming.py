"""Adapter of taming-transformers' VQGAN in torch, with random weights."""

import contextlib
from collections.abc import Callable
from typing import Any

import configs
import numpy as np
import stubs
import torch

stubs.stub_all()

from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer2

Run = Callable[[int], Any]
Info = dict[str, Any]


class Autoencoder:
    """Encoder, quantizer, decoder and the 1 × 1 convolutions between them."""

    def __init__(self, c: configs.Sizes) -> None:
        torch.set_num_threads(c["threads"])
        torch.manual_seed(0)
        shared = {
            "ch": c["ch"],
            "out_ch": 3,
            "ch_mult": c["mult"],
            "num_res_blocks": c["blocks"],
            "attn_resolutions": [c["attn"]],
            "in_channels": 3,
            "resolution": c["px"],
            "z_channels": c["z"],
            "double_z": False,
            "dropout": 0.0,
        }
        self.encoder, self.decoder = Encoder(**shared).eval(), Decoder(**shared).eval()
        self.quantizer = VectorQuantizer2(c["codes"], c["z"], beta=0.25)
        self.before, self.after = (torch.nn.Conv2d(c["z"], c["z"], 1) for _ in range(2))
        parts = [self.encoder, self.decoder, self.quantizer, self.before, self.after]
        params = sum(parameter.numel() for part in parts for parameter in part.parameters())
        self.info = {"params": params, "torch": torch.__version__}
        if c.get("cl"):
            for part in parts[:2]:
                part.to(memory_format=torch.channels_last)
        self._is_bf16 = c["dtype"] == "bf16"

    def precision(self) -> Any:
        """A context without gradients, in bfloat16 if the sizes ask for it."""
        stack = contextlib.ExitStack()
        stack.enter_context(torch.no_grad())
        if self._is_bf16:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        return stack


def make_encoder(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "encode": `run` encodes random pictures to image tokens."""
    model = Autoencoder(c)
    shape = c["batch"], c["px"], c["px"], 3
    pictures = np.random.default_rng(0).random(shape, np.float32).transpose(0, 3, 1, 2).copy()
    pixels = torch.from_numpy(pictures)
    if c.get("cl"):
        pixels = pixels.to(memory_format=torch.channels_last)

    def run(index: int) -> Any:
        with model.precision():
            states = model.before(model.encoder(pixels * 2 - 1))
            return model.quantizer(states.float())[2][2].reshape(c["batch"], -1).numpy()

    return run, model.info


def make_decoder(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "decode": `run` decodes random image tokens to pictures."""
    model, side = Autoencoder(c), int(c["image_len"] ** 0.5)
    shape = c["batch"], c["image_len"]
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, c["codes"], shape))

    def run(index: int) -> Any:
        with model.precision():
            codes = model.quantizer.embedding(tokens).reshape(-1, side, side, c["z"])
            pictures = model.decoder(model.after(codes.permute(0, 3, 1, 2)))
            return pictures.float().permute(0, 2, 3, 1).numpy()

    return run, model.info
