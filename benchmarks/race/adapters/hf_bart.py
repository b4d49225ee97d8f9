"""Adapter of BART in Hugging Face's transformers, in torch.

It has no gated feed-forward. A plain one of 1.5 times the width has as many parameters and FLOPs.
The decoder's embedding and head are tied, the text has a separate embedding, and biases are used.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import configs
import torch
from transformers import BartConfig, BartForConditionalGeneration

Run = Callable[[int], Any]
Info = dict[str, Any]


def build(c: configs.Sizes) -> tuple[Any, Info]:
    """The model with random weights."""
    torch.set_num_threads(c["threads"])
    torch.manual_seed(0)
    codes, width = c["image_vocab"], round(c["ffn"] * 1.5)
    settings: dict[str, Any] = {
        "vocab_size": codes + 3,
        "max_position_embeddings": c["image_len"] + 2,
        "encoder_layers": c["enc_layers"],
        "decoder_layers": c["dec_layers"],
        "encoder_attention_heads": c["heads"],
        "decoder_attention_heads": c["heads"],
        "encoder_ffn_dim": width,
        "decoder_ffn_dim": width,
        "d_model": c["d_model"],
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "bos_token_id": codes,
        "pad_token_id": codes + 1,
        "eos_token_id": codes + 2,
        "decoder_start_token_id": codes,
        "forced_eos_token_id": None,
        "use_cache": True,
        "attn_implementation": c.get("attn_impl", "sdpa"),
    }
    model = BartForConditionalGeneration(BartConfig(**settings))
    model.model.encoder.embed_tokens = torch.nn.Embedding(c["text_vocab"], c["d_model"])
    params = sum(parameter.numel() for parameter in model.parameters())
    return model, {"params": params, "torch": torch.__version__}


def make_train_step(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "train": `run` does one AdamW update from host arrays and returns the loss."""
    model, info = build(c)
    model.train()
    fused = c.get("fused", True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=c["lr"], weight_decay=1e-4, fused=fused)
    data = [{k: torch.from_numpy(v).long() for k, v in b.items()} for b in configs.batches(c)]

    def loss_of(batch: Any) -> Any:
        image = batch["image"]
        first = torch.full_like(image[:, :1], c["image_vocab"])
        logits = model(
            input_ids=batch["text"],
            attention_mask=batch["text_mask"],
            decoder_input_ids=torch.cat([first, image[:, :-1]], 1),
            use_cache=False,
        ).logits
        flat = logits.reshape(-1, logits.shape[-1]).float()
        return torch.nn.functional.cross_entropy(flat, image.reshape(-1))

    forward = torch.compile(loss_of) if c.get("compile") else loss_of
    is_bf16 = c["dtype"] == "bf16"

    def run(index: int) -> float:
        with torch.autocast("cpu", torch.bfloat16) if is_bf16 else contextlib.nullcontext():
            loss = forward(data[index % len(data)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run, info


def make_sampler(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "sample": `run` samples image tokens by generate(). It has no guidance, so it runs on
    twice the rows, as guidance would, and half of them are returned."""
    model, info = build(c)
    model.eval()
    if c["dtype"] == "bf16":
        model = model.to(torch.bfloat16)
    arrays = (torch.from_numpy(array).long() for array in configs.prompts(c, c["batch"]))
    text, mask, empty, empty_mask = arrays
    if c["cond_scale"] != 1:
        text, mask = torch.cat([text, empty]), torch.cat([mask, empty_mask])
    special = [c["image_vocab"] + i for i in range(3)]
    more = {"cache_implementation": "static"} if c.get("static") else {}

    def run(index: int) -> Any:
        torch.manual_seed(index)
        with torch.no_grad():
            drawn = model.generate(
                input_ids=text,
                attention_mask=mask,
                do_sample=True,
                top_k=c["top_k"],
                temperature=1.0,
                num_beams=1,
                min_new_tokens=c["image_len"],
                max_new_tokens=c["image_len"],
                suppress_tokens=special,
                **more,
            )
        return drawn[: c["batch"], 1:].numpy()

    return run, info
