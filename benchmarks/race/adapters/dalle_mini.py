"""Adapter of dalle-mini 0.1.5, with the jax, flax and transformers versions of its time
(make_peers)."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import configs
import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

# jax has moved these names since; the package reads them at import.
homes: tuple[Any, ...] = (jnp, jax.interpreters.xla)
for home in homes:
    if not hasattr(home, "DeviceArray"):
        home.DeviceArray = jax.Array
if not hasattr(jax.experimental, "PartitionSpec"):
    jax.experimental.PartitionSpec = jax.sharding.PartitionSpec  # type: ignore[attr-defined]
# The package imports wandb, only to ask whether a run is active.
tracker: Any = types.ModuleType("wandb")
tracker.run, tracker.__spec__ = None, None
sys.modules.setdefault("wandb", tracker)

import optax
from dalle_mini.model.configuration import DalleBartConfig
from dalle_mini.model.modeling import DalleBart

Run = Callable[[int], Any]
Info = dict[str, Any]


def build(c: configs.Sizes) -> tuple[Any, Info]:
    """Its NormFormer with gated feed-forwards and no biases, with random weights."""
    config = DalleBartConfig(
        encoder_vocab_size=c["text_vocab"],
        image_vocab_size=c["image_vocab"],
        image_length=c["image_len"],
        max_text_length=c["text_len"],
        encoder_layers=c["enc_layers"],
        decoder_layers=c["dec_layers"],
        encoder_ffn_dim=c["ffn"],
        decoder_ffn_dim=c["ffn"],
        encoder_attention_heads=c["heads"],
        decoder_attention_heads=c["heads"],
        d_model=c["d_model"],
        dropout=0.0,
        use_bias=False,
        ln_type="layernorm",
        ln_positions="normformer",
        use_glu=True,
        gradient_checkpointing=c.get("remat", False),
        use_scan=c.get("use_scan", True),
    )
    dtype = jnp.bfloat16 if c["dtype"] == "bf16" else jnp.float32
    model = DalleBart(config, seed=0, dtype=dtype, _do_init=True)
    return model, {"params": model.num_params(), "jax": jax.__version__}


def make_train_step(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "train": `run` does one AdamW update from host arrays and returns the loss."""
    model, info = build(c)
    optimizer = optax.adamw(c["lr"])
    params = jax.tree_util.tree_map(jnp.array, model.params)
    state = params, optimizer.init(params)
    start, data = c["image_vocab"], configs.batches(c)

    def loss_of(params: Any, batch: Any) -> Any:
        image = batch["image"]
        first = jnp.full((image.shape[0], 1), start, image.dtype)
        logits = model(
            input_ids=batch["text"],
            attention_mask=batch["text_mask"],
            decoder_input_ids=jnp.concatenate([first, image[:, :-1]], 1),
            params=params,
            dropout_rng=jax.random.PRNGKey(0),
            train=True,
        )[0]
        targets = jax.nn.one_hot(image, logits.shape[-1])
        return optax.softmax_cross_entropy(logits, targets).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def run(index: int) -> float:
        nonlocal state
        state, loss = step(state, data[index % len(data)])
        jax.block_until_ready(state)
        return float(loss)

    return run, info


def make_sampler(c: configs.Sizes) -> tuple[Run, Info]:
    """The job "sample": `run` samples image tokens for the prompts by the package's generate()."""
    model, info = build(c)
    params = model.params
    if c["dtype"] == "bf16":
        params = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), params)
    text, mask, empty, empty_mask = configs.prompts(c, c["batch"])

    @jax.jit
    def generate(params: Any, key: Any) -> Any:
        drawn = model.generate(
            input_ids=text,
            attention_mask=mask,
            input_ids_uncond=empty,
            attention_mask_uncond=empty_mask,
            params=params,
            prng_key=key,
            top_k=c["top_k"],
            condition_scale=c["cond_scale"],
        )
        return drawn.sequences[:, 1:]

    return lambda index: np.asarray(generate(params, jax.random.PRNGKey(index))), info
