"""Adapter of min-dalle 0.4.11: DALL·E mini's transformer in torch, for sampling only, with random
weights."""

import sys
import types
from collections.abc import Callable
from typing import Any

import configs
import numpy as np
import torch

sys.modules.setdefault(
    "requests", types.ModuleType("requests")
)  # the package would download weights with it

from min_dalle.models.dalle_bart_decoder import DalleBartDecoder
from min_dalle.models.dalle_bart_encoder import DalleBartEncoder

Run = Callable[[int], Any]
Info = dict[str, Any]
PADDING = 1


def build(c: configs.Sizes) -> tuple[Any, Any, Info]:
    """Encoder and decoder with random weights."""
    torch.set_num_threads(c["threads"])
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    dtype = torch.bfloat16 if c["dtype"] == "bf16" else torch.float32
    shared = {
        "layer_count": c["enc_layers"],
        "embed_count": c["d_model"],
        "attention_head_count": c["heads"],
        "glu_embed_count": c["ffn"],
        "device": "cpu",
    }
    encoder = DalleBartEncoder(
        text_vocab_count=c["text_vocab"], text_token_count=c["text_len"], **shared
    )
    shared["layer_count"] = c["dec_layers"]
    decoder = DalleBartDecoder(image_vocab_count=c["image_vocab"], **shared)
    both = [encoder.to(dtype).eval(), decoder.to(dtype).eval()]
    params = sum(parameter.numel() for part in both for parameter in part.parameters())
    return *both, {"params": params, "torch": torch.__version__}


def make_sampler(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "sample": `run` samples several pictures of one prompt, as the package's interface
    does. Raises ValueError unless a picture has 256 tokens."""
    if c["image_len"] != 256:
        raise ValueError(f"min-dalle draws 256 tokens, not {c['image_len']}")
    encoder, decoder, info = build(c)
    pictures, length = c["batch"], c["image_len"]
    is_bf16 = c["dtype"] == "bf16"
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    text, mask, empty, empty_mask = configs.prompts(c, 1)
    padded = [np.where(empty_mask > 0, empty, PADDING), np.where(mask > 0, text, PADDING)]
    both = torch.from_numpy(np.concatenate(padded)).long()
    chosen = [0] * pictures + [1] * pictures
    settings = torch.tensor([1.0, c["top_k"], c["cond_scale"]])
    text_mask = both[chosen].not_equal(PADDING)[:, None, None, :]

    def run(index: int) -> Any:
        torch.manual_seed(index)
        tokens = torch.full((pictures, length + 1), c["image_vocab"], dtype=torch.long)
        cache = torch.zeros(c["dec_layers"], 4 * pictures, length, c["d_model"], dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            states = encoder(both)[chosen]
            for place in range(length):
                tokens[:, place + 1], cache = decoder.sample_tokens(
                    settings=settings,
                    attention_mask=text_mask,
                    encoder_state=states,
                    attention_state=cache,
                    prev_tokens=tokens[:, place : place + 1],
                    token_index=torch.tensor([place]),
                )
        return tokens[:, 1:].numpy()

    return run, info
