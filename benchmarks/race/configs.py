"""The sizes, synthetic data and FLOP counts, the same for every contestant.

The worker puts this folder on sys.path, so that adapters may `import configs`. It runs in each
contestant's own environment, so it imports NumPy only. "Tokens" always means image tokens.

FLOPs are those of the matrix products: 2 · rows · inner · columns each, with full attention, not
halved for causality. Embeddings, norms, softmax, loss and optimizer count nothing. A training step
counts as three forward passes.
"""

from typing import Any

import numpy as np

Sizes = dict[str, Any]

CONFIGS: dict[str, Sizes] = {
    "bench-S": {
        "d_model": 256,
        "enc_layers": 4,
        "dec_layers": 4,
        "heads": 8,
        "ffn": 1024,
        "text_vocab": 8192,
        "image_vocab": 1024,
        "text_len": 64,
        "image_len": 256,
        "batch": 8,
    },
    "tiny": {
        "d_model": 64,
        "enc_layers": 1,
        "dec_layers": 1,
        "heads": 2,
        "ffn": 96,
        "text_vocab": 128,
        "image_vocab": 64,
        "text_len": 8,
        "image_len": 16,
        "batch": 2,
    },
    # VQGANs: pictures of px × px pixels, halved after each level of `mult` but the last
    "vq-64": {
        "ch": 64,
        "mult": (1, 2, 2),
        "blocks": 2,
        "attn": 16,
        "z": 256,
        "codes": 1024,
        "px": 64,
        "image_len": 256,
        "batch": 4,
    },
    "vq-tiny": {
        "ch": 32,
        "mult": (1, 1),
        "blocks": 1,
        "attn": 4,
        "z": 8,
        "codes": 16,
        "px": 8,
        "image_len": 16,
        "batch": 2,
    },
}
DEFAULTS: Sizes = {
    "dtype": "f32",
    "cond_scale": 10.0,
    "top_k": 50,
    "temperature": 1.0,
    "lr": 1e-4,
    "seed": 0,
    "threads": 1,
}
TOKEN_OF_AN_EMPTY_PROMPT = 2
FIRST_WORD = 3  # smaller text tokens are special tokens


def get(name: str, **changes: Any) -> Sizes:
    """DEFAULTS, updated by the sizes of this name and then by `changes`."""
    if name not in CONFIGS:
        raise ValueError(f"no sizes {name!r}; there are: {', '.join(CONFIGS)}")
    return {**DEFAULTS, **CONFIGS[name], **changes}


def batches(c: Sizes, n: int = 4, batch: int | None = None) -> list[dict[str, np.ndarray]]:
    """`n` batches, the same for all contestants: text [batch, text_len], text_mask (1 = a token)
    and image [batch, image_len], all int32. Captions have different lengths."""
    rng = np.random.default_rng(c["seed"])
    rows, text_len = batch or c["batch"], c["text_len"]
    batches = []
    for _ in range(n):
        text = rng.integers(FIRST_WORD, c["text_vocab"], (rows, text_len)).astype(np.int32)
        length = rng.integers(8 if text_len > 8 else 2, text_len + 1, (rows, 1))
        mask = (np.arange(text_len)[None] < length).astype(np.int32)
        image = rng.integers(0, c["image_vocab"], (rows, c["image_len"])).astype(np.int32)
        batches.append({"text": text * mask, "text_mask": mask, "image": image})
    return batches


def prompts(c: Sizes, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Text and mask of `batch` prompts, then text and mask of `batch` empty prompts."""
    first = batches(c, 1, batch)[0]
    empty, empty_mask = np.zeros_like(first["text"]), np.zeros_like(first["text_mask"])
    empty[:, 0], empty_mask[:, 0] = TOKEN_OF_AN_EMPTY_PROMPT, 1
    return first["text"], first["text_mask"], empty, empty_mask


def job_flops(c: Sizes, job: str) -> float:
    """FLOPs of one run of a job: one update, or sampling, encoding or decoding one batch."""
    if job == "train":
        return 3 * forward_flops(c)
    if job == "sample":
        rows = c["batch"] * (1 if c["cond_scale"] == 1 else 2)
        return c["image_len"] * decoding_flops(c, rows)
    return vqgan_flops(c, job)


def forward_flops(c: Sizes) -> float:
    """FLOPs of a forward pass over a batch: an encoder–decoder with gated feed-forwards, on all
    image tokens at once."""
    d, f, text, image = (c[name] for name in ("d_model", "ffn", "text_len", "image_len"))
    encoder = c["enc_layers"] * text * (4 * d * d + 3 * d * f + 2 * text * d)
    to_itself, to_text = 4 * d * d + 2 * image * d, 2 * d * d + 2 * text * d
    keys_values = text * 2 * d * d
    decoder = c["dec_layers"] * (image * (to_itself + to_text + 3 * d * f) + keys_values)
    return 2 * c["batch"] * (encoder + decoder + image * d * c["image_vocab"])


def decoding_flops(c: Sizes, rows: int) -> float:
    """FLOPs of the next token of `rows` pictures. Keys and values are cached, and those of the text
    count nothing. Attention is counted over a full cache."""
    d, f, text, image = (c[name] for name in ("d_model", "ffn", "text_len", "image_len"))
    layer = 6 * d * d + 3 * d * f + 2 * image * d + 2 * text * d
    return 2 * rows * (c["dec_layers"] * layer + d * c["image_vocab"])


Layer = tuple[str, int, int, int]
"""(kind, input channels, output channels, height = width of the output)."""


def encoder_layers(c: Sizes) -> list[Layer]:
    """The layers of taming-transformers' encoder, to the nearest code."""
    size, width = c["px"], c["ch"]
    layers: list[Layer] = [("conv3", 3, width, size)]
    for level, multiple in enumerate(c["mult"]):
        for _ in range(c["blocks"]):
            layers.append(("block", width, c["ch"] * multiple, size))
            width = c["ch"] * multiple
            if size == c["attn"]:
                layers.append(("attention", width, width, size))
        if level < len(c["mult"]) - 1:
            size //= 2
            layers.append(("conv3", width, width, size))
    layers += middle_layers(width, size)
    layers += [("conv3", width, c["z"], size), ("conv1", c["z"], c["z"], size)]
    return [*layers, ("conv1", c["z"], c["codes"], size)]


def decoder_layers(c: Sizes) -> list[Layer]:
    """The layers of taming-transformers' decoder, from a code to pixels."""
    size, width = c["px"] // 2 ** (len(c["mult"]) - 1), c["ch"] * c["mult"][-1]
    layers: list[Layer] = [("conv1", c["z"], c["z"], size), ("conv3", c["z"], width, size)]
    layers += middle_layers(width, size)
    for level in reversed(range(len(c["mult"]))):
        for _ in range(c["blocks"] + 1):
            layers.append(("block", width, c["ch"] * c["mult"][level], size))
            width = c["ch"] * c["mult"][level]
            if size == c["attn"]:
                layers.append(("attention", width, width, size))
        if level:
            size *= 2
            layers.append(("conv3", width, width, size))
    return [*layers, ("conv3", width, 3, size)]


def middle_layers(width: int, size: int) -> list[Layer]:
    block: Layer = ("block", width, width, size)
    return [block, ("attention", width, width, size), block]


def vqgan_flops(c: Sizes, job: str) -> float:
    """FLOPs of encoding or decoding a batch of pictures."""
    total = 0
    for kind, i, o, size in encoder_layers(c) if job == "encode" else decoder_layers(c):
        places = size * size
        total += (
            places
            * {
                "conv1": i * o,
                "conv3": 9 * i * o,
                "block": 9 * i * o + 9 * o * o + (i * o if i != o else 0),
                "attention": 4 * i * i + 2 * places * i,
            }[kind]
        )
    return 2 * total * c["batch"]
