"""How fast are pictures drawn, and how near is that to the bound by memory? Prints a table.

python -m benchmarks.sampling
python -m benchmarks.sampling --model.dim=1024 --model.mlp_dim=4096 --compute_dtype=bfloat16

Weights are random, in the given sizes. The bound is the memory's bandwidth: for each token the
decoder's weights must be read once for all rows, and the keys and values so far for each row.
"""

import sys

if __name__ == "__main__" and not __package__:  # started as a file, without -m
    sys.path[0] = sys.path[0].rpartition("/")[0]

import runtime

runtime.prepare()

import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.machine import seconds
from command_line.parser import run
from model import transformer
from model.config import ModelConfig, SamplingConfig
from model.sampling import make_sampler
from model.transformer import Params, Transformer


def small_model() -> ModelConfig:
    """12 M parameters, 256 image tokens."""
    return ModelConfig(
        dim=256,
        encoder_depth=4,
        decoder_depth=4,
        num_heads=8,
        mlp_dim=1024,
        text_vocab_size=8192,
        text_length=64,
        image_vocab_size=1024,
        grid_size=16,
    )


def guided() -> SamplingConfig:
    """Sampling with guidance, which doubles the rows, and top-k of 50."""
    return SamplingConfig(guidance_scale=10.0, temperature=1.0, top_k=50)


@dataclass(frozen=True)
class SamplingBenchmark:
    """The model and the sampling to time, and the number of rounds."""

    model: ModelConfig = field(default_factory=small_model)
    """The transformer."""
    sampling: SamplingConfig = field(default_factory=guided)
    """How tokens are drawn."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of matrix products, of the weights and of the cache."""
    pictures: tuple[int, ...] = (1, 4)
    """Pictures drawn at a time; each number is one row of the table."""
    rounds: int = 7
    """Timed calls for each row; the median is printed."""
    bandwidth_megabytes: int = 256
    """Size of the array that is read to measure the bandwidth; it must exceed the CPU's caches."""


def main(config: SamplingBenchmark) -> None:
    """Measure the bandwidth, then print a row for each number of pictures."""
    bandwidth = measure_bandwidth(config.bandwidth_megabytes << 20)
    count, device = transformer.count_params(config.model), jax.devices()[0].device_kind
    print(
        f"{count:,} parameters, {config.compute_dtype}, {device}: {bandwidth / 1e9:.1f} GB/s read"
    )
    print(
        "| pictures | image tokens/s | of the bound | compiling, s | memory, MB | of it weights |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for pictures in config.pictures:
        print(_measure(config, pictures, bandwidth), flush=True)


def measure_bandwidth(size: int) -> float:
    """Bytes per second at which the device reads and sums an array of `size` bytes: the best of
    ten."""
    total, x = jax.jit(jnp.sum), jnp.ones((size // 4,), jnp.float32)
    return x.nbytes / min(seconds(lambda: total(x), 11)[1:])


def bytes_per_token(model: Transformer, params: Params, rows: int) -> float:
    """Bytes that one step for `rows` rows must read, on average over a picture: the decoder's
    weights, and the keys and values of the caption and of the tokens so far."""
    config, text = model.config, (rows, model.config.text_length)
    states = jax.ShapeDtypeStruct((*text, config.dim), model.dtype)

    def keys_values(params: Params, states: Array, mask: Array) -> list[tuple[Array, ...]]:
        layers = model.init_cache(params, states, mask, 1).layers
        return [(layer.cross_k, layer.cross_v, layer.self_k, layer.self_v) for layer in layers]

    mask = jax.ShapeDtypeStruct(text, bool)
    layers = jax.eval_shape(keys_values, params, states, mask)
    caption, position = (
        _bytes([layer[part] for layer in layers]) for part in (slice(2), slice(2, 4))
    )
    head = params["head"] if "head" in params else params["image_embedding"]["tokens"]
    weights = _bytes(params["decoder"]) + _bytes(head)
    return weights + caption + position * (config.image_length + 1) / 2


def _measure(config: SamplingBenchmark, pictures: int, bandwidth: float) -> str:
    """One row of the table."""
    model = transformer.build(config.model, config.compute_dtype)
    rows = pictures * (1 if config.sampling.guidance_scale == 1 else 2)
    on_cpu = jax.default_backend() == "cpu"
    params = model.lay_out(jax.jit(model.init)(jax.random.key(0)), rows if on_cpu else None)
    empty = np.zeros((1, config.model.text_length), np.int32)
    sample = make_sampler(model, config.sampling, (empty, empty == 0))
    text = np.arange(pictures * empty.size, dtype=np.int32).reshape(pictures, -1)
    text %= config.model.text_vocab_size
    seeds = np.arange(pictures, dtype=np.uint32)
    start = time.perf_counter()
    compiled = jax.jit(sample).lower(params, text, text >= 0, seeds).compile()
    compiling = time.perf_counter() - start
    times = seconds(lambda: compiled(params, text, text >= 0, seeds), config.rounds + 1)[1:]
    pace = config.model.image_length / statistics.median(times)
    share = pace * bytes_per_token(model, params, rows) / bandwidth
    used: Any = compiled.memory_analysis()
    memory = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return (
        f"| {pictures} | {pace * pictures:.0f} | {share:.0%} | {compiling:.1f} "
        f"| {memory / 1e6:.0f} | {_bytes(params) / 1e6:.0f} |"
    )


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # else compiling would take no time
    run(main, SamplingBenchmark, prog="python -m benchmarks.sampling", about=__doc__ or "")
