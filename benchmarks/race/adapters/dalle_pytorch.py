"""Adapter of DALLE-pytorch 1.6.6: a decoder over one sequence of text and image tokens.

Its depth is chosen so that the layers have as many parameters as the other contestants'. Each layer
has 16 d²: attention 4 d² and the gated feed-forward 12 d².
"""

import contextlib
from collections.abc import Callable
from typing import Any

import configs
import numpy as np
import stubs
import torch

stubs.stub_all()

from dalle_pytorch import DALLE, DiscreteVAE

Run = Callable[[int], Any]
Info = dict[str, Any]


def build(c: configs.Sizes) -> tuple[Any, Info]:
    """The model with random weights, and the smallest VAE that it accepts."""
    torch.set_num_threads(c["threads"])
    torch.manual_seed(0)
    d, gated = c["d_model"], 3 * c["d_model"] * c["ffn"]
    layers = c["enc_layers"] * (4 * d * d + gated) + c["dec_layers"] * (8 * d * d + gated)
    depth = c.get("depth", round(layers / (16 * d * d)))
    vae = DiscreteVAE(
        image_size=2 * int(c["image_len"] ** 0.5),
        num_layers=1,
        num_tokens=c["image_vocab"],
        codebook_dim=8,
        hidden_dim=8,
    )
    model = DALLE(
        dim=d,
        vae=vae,
        num_text_tokens=c["text_vocab"],
        text_seq_len=c["text_len"],
        depth=depth,
        heads=c["heads"],
        dim_head=d // c["heads"],
        rotary_emb=c.get("rotary", True),
        shift_tokens=c.get("shift", True),
    )
    named = model.named_parameters()
    params = sum(parameter.numel() for name, parameter in named if not name.startswith("vae."))
    return model, {"params": params, "depth": depth, "torch": torch.__version__}


def make_train_step(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "train": `run` does one AdamW update from host arrays and returns the loss."""
    model, info = build(c)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=c["lr"], fused=True)
    data = [{k: torch.from_numpy(v).long() for k, v in b.items()} for b in configs.batches(c)]
    is_bf16 = c["dtype"] == "bf16"

    def run(index: int) -> float:
        batch = data[index % len(data)]
        with torch.autocast("cpu", torch.bfloat16) if is_bf16 else contextlib.nullcontext():
            loss = model(batch["text"].clone(), batch["image"], return_loss=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run, info


def make_sampler(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "sample": `run` samples image tokens for the prompts by the package's
    generate_images()."""
    model, info = build(c)
    model.eval()
    model.vae.decode = lambda tokens: tokens  # return tokens, not pixels
    text = torch.from_numpy(configs.prompts(c, c["batch"])[0]).long()
    dropped = 1 - c["top_k"] / model.total_tokens

    def run(index: int) -> Any:
        torch.manual_seed(index)
        with torch.no_grad():
            drawn = model.generate_images(
                text.clone(),
                filter_thres=dropped,
                cond_scale=c["cond_scale"],
                use_cache=c.get("cache", True),
            )
        return np.clip(drawn.numpy(), 0, None)

    return run, info
