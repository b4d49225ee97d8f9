"""The adapter through which benchmarks/race runs Pastel. It has one function per job.

Every function takes the driver's dict of sizes and returns (run, info). It calls the same functions
as train.py, generate.py and data/encode.py. The model has the architecture of the presets in the
driver's sizes: pre-RMSNorm, SwiGLU, no biases, untied embeddings.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import runtime

runtime.prepare()

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.config import ModelConfig, SamplingConfig
from model.loss import make_loss
from model.loss_config import LossConfig
from model.sampling import make_sampler as make_model_sampler
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from optim.schedules import make_schedule
from training.update.state import TrainState
from training.update.step import StepParts, train_step
from vqgan import autoencoder
from vqgan.config import VQGANConfig

Sizes = dict[str, Any]
Run = Callable[[int], Any]
Info = dict[str, Any]
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def model_config(sizes: Sizes) -> ModelConfig:
    """The transformer's settings for the driver's sizes."""
    return ModelConfig(
        dim=sizes["d_model"],
        encoder_depth=sizes["enc_layers"],
        decoder_depth=sizes["dec_layers"],
        num_heads=sizes["heads"],
        mlp_dim=sizes["ffn"],
        text_vocab_size=sizes["text_vocab"],
        text_length=sizes["text_len"],
        image_vocab_size=sizes["image_vocab"],
        grid_size=round(sizes["image_len"] ** 0.5),
    )


def vqgan_config(sizes: Sizes) -> VQGANConfig:
    """The settings of a VQGAN like taming-transformers', for the driver's sizes."""
    levels = len(sizes["mult"])
    return VQGANConfig(
        image_size=sizes["px"],
        patch_size=1,
        edge_kernel=3,
        stem_channels=sizes["ch"],
        channels=tuple(sizes["ch"] * multiple for multiple in sizes["mult"]),
        encoder_blocks=(sizes["blocks"],) * levels,
        decoder_blocks=(sizes["blocks"] + 1,) * levels,
        attention_resolutions=(sizes["attn"],),
        middle="attention",
        resampling="conv",
        norm="groupnorm",
        latent_channels=sizes["z"],
        code_dim=sizes["z"],
        codebook_size=sizes["codes"],
        normalize_codes=False,
    )


def make_train_step(sizes: Sizes) -> tuple[Run, Info]:
    """The job "train": `run` does one whole update from host arrays and returns the loss."""
    import configs  # the race's folder is on sys.path

    config, dtype = model_config(sizes), DTYPES[sizes["dtype"]]
    model = transformer.build(config, dtype)
    optim = OptimConfig(learning_rate=sizes["lr"], warmup_steps=0, decay_fraction=0.0)
    optimizer = make_optimizer(optim)
    empty_tokens, empty_mask = (jnp.asarray(array) for array in _empty_text(sizes))
    loss = make_loss(
        *(model, (empty_tokens, empty_mask), config.image_vocab_size),
        LossConfig(caption_dropout=0.0),
    )
    update = partial(train_step, StepParts(loss, optimizer, make_schedule(optim, steps=1_000_000)))
    step = jax.jit(update, donate_argnums=0)
    state = TrainState.create(model.init, optimizer, sizes["seed"], dtype)
    batches = [
        {
            "text_tokens": batch["text"],
            "text_mask": batch["text_mask"].astype(bool),
            "image_tokens": batch["image"],
            "example_index": np.arange(sizes["batch"], dtype=np.int32),
        }
        for batch in configs.batches(sizes)
    ]

    def run(index: int) -> float:
        nonlocal state
        state, metrics = step(state, batches[index % len(batches)])
        jax.block_until_ready(state)
        return float(metrics.loss)

    return run, _info(state.params)


def make_sampler(sizes: Sizes) -> tuple[Run, Info]:
    """The job "sample": `run` samples image tokens for the driver's prompts, with guidance against
    its empty prompt."""
    import configs

    config = model_config(sizes)
    model = transformer.build(config, DTYPES[sizes["dtype"]])
    sampling = SamplingConfig(
        guidance_scale=sizes["cond_scale"],
        temperature=sizes["temperature"],
        top_k=min(sizes["top_k"], config.image_vocab_size),
    )
    rows = sizes["batch"] * (1 if sampling.guidance_scale == 1 else 2)
    on_cpu = jax.default_backend() == "cpu"
    params = model.lay_out(
        jax.jit(model.init)(jax.random.key(sizes["seed"])), rows if on_cpu else None
    )
    sample = make_model_sampler(model, sampling, _empty_text(sizes))
    text_tokens, text_mask, *_ = configs.prompts(sizes, sizes["batch"])

    def run(index: int) -> np.ndarray:
        seeds = np.arange(len(text_tokens), dtype=np.uint32) + np.uint32(index * len(text_tokens))
        return np.asarray(sample(params, text_tokens, text_mask.astype(bool), seeds))

    return run, _info(params)


def make_encoder(sizes: Sizes) -> tuple[Run, Info]:
    """The job "encode": `run` encodes random pictures to image tokens."""
    model = autoencoder.build(vqgan_config(sizes))
    params = model.init(jax.random.key(sizes["seed"]))
    shape = sizes["batch"], sizes["px"], sizes["px"], 3
    pixels = np.random.default_rng(0).random(shape, np.float32) * 2 - 1
    encode = jax.jit(model.encode)
    return lambda index: np.asarray(encode(params, pixels)), _info(params)


def make_decoder(sizes: Sizes) -> tuple[Run, Info]:
    """The job "decode": `run` decodes random image tokens to pictures."""
    model = autoencoder.build(vqgan_config(sizes))
    params = model.init(jax.random.key(sizes["seed"]))
    shape = sizes["batch"], sizes["image_len"]
    tokens = np.random.default_rng(0).integers(0, sizes["codes"], shape, np.int32)
    decode = jax.jit(model.decode)
    return lambda index: np.asarray(decode(params, tokens)), _info(params)


def _empty_text(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    import configs

    _, _, tokens, mask = configs.prompts(sizes, 1)
    return tokens, mask.astype(bool)


def _info(params: object) -> Info:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    recipe = "pre-RMSNorm, SwiGLU, no biases, untied"
    return {"params": count, "jax": jax.__version__, "model": recipe}
