"""The autoencoder's layers: shapes, sizes, and the published layout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import first_vqgan
from tests.vqgan.examples import F16
from vqgan.autoencoder import build, decoder_plan, encoder_plan
from vqgan.config import VQGANConfig

KEY = jax.random.key(0)
CHANGES = {
    "folded": {},
    "attentive": {"attention_resolutions": (2,), "middle": "attention"},
    "convolved": {
        "patch_size": 1,
        "edge_kernel": 3,
        "stem_channels": 32,
        "channels": (32, 64),
        "resampling": "conv",
        "norm": "groupnorm",
        "normalize_codes": False,
    },
}


@pytest.fixture(params=list(CHANGES.values()), ids=list(CHANGES), scope="module")
def layout(request, tiny_vqgan):
    autoencoder = build(dataclasses.replace(tiny_vqgan, **request.param))
    return autoencoder, autoencoder.init(KEY)


def test_pictures_become_tokens_and_pictures_again(layout):
    autoencoder, params = layout
    pixels = jax.random.uniform(jax.random.key(1), (3, 16, 16, 3), minval=-1.0)
    tokens = jax.jit(autoencoder.encode)(params, pixels)
    assert tokens.shape == (3, autoencoder.config.image_length)
    assert tokens.dtype == jnp.int32
    assert 0 <= tokens.min() <= tokens.max() < 32
    painted = jax.jit(autoencoder.decode)(params, tokens)
    assert painted.shape == pixels.shape
    assert painted.dtype == jnp.float32


def test_tokens_are_row_major(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = first_vqgan(tiny_vqgan)
    tokens = jnp.array([[0, 0, 0, 0], [0, 1, 0, 0]])  # the top right token changes
    painted = jax.jit(autoencoder.decode)(params, tokens)
    changed = np.abs(painted[1] - painted[0]).sum(-1)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert (int(row) // 8, int(column) // 8) == (0, 1)


def test_codes_have_unit_length_if_normalized(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = first_vqgan(tiny_vqgan)
    codes = jax.jit(autoencoder.codes)(params)
    latents = jax.jit(autoencoder.latents)(params, np.ones((1, 16, 16, 3), np.float32))
    for vectors in (codes, latents):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)


def test_ids_beyond_the_codebook_still_decode(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = first_vqgan(tiny_vqgan)
    beyond, last = (jnp.full((1, 4), i, jnp.int32) for i in (40, 31))
    decode = jax.jit(autoencoder.decode)
    np.testing.assert_array_equal(decode(params, beyond), decode(params, last))


def count_params(config: VQGANConfig) -> int:
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(build(config).init, KEY)))


def test_the_published_f16_layout_has_its_published_size():
    assert F16.image_length == 256
    assert count_params(F16) == 71_879_555 + 16384 * 256


def test_a_published_layout_with_other_widths_has_its_published_size():
    """ch 32, ch_mult (2, 1), 1 block, attention at 16, 32 pixels, 64 codes: num_params of the
    vqgan-jax model in ../shared/reference/vqgan_flax."""
    config = dataclasses.replace(
        F16,
        image_size=32,
        stem_channels=32,
        channels=(64, 32),
        encoder_blocks=(1, 1),
        decoder_blocks=(2, 2),
        latent_channels=32,
        code_dim=32,
        codebook_size=64,
    )
    assert count_params(config) == 424_387


def test_the_small_layout_has_no_narrow_convolution_at_full_resolution():
    config = VQGANConfig()
    for layer in (*encoder_plan(config), *decoder_plan(config)):
        if layer.kind == "block":
            assert min(layer.c_in, layer.c_out) >= 64


def test_pictures_of_another_size_are_refused(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = first_vqgan(tiny_vqgan)
    with pytest.raises(ValueError, match="this VQGAN reads"):
        autoencoder.encode(params, jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 20}, "try 16"),
        ({"channels": (8, 16, 32)}, "one entry for each level"),
        ({"norm": "groupnorm"}, "multiples of 32"),
    ],
)
def test_impossible_layouts_are_refused(tiny_vqgan, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_vqgan, **changes)


def test_tokens_and_pictures_are_computed_in_full_precision_on_any_device(layout):
    """By default accelerators round the factors of float32 products."""
    autoencoder, params = layout
    pixels = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    tokens = jax.eval_shape(autoencoder.encode, params, pixels)
    for function, given in ((autoencoder.encode, pixels), (autoencoder.decode, tokens)):
        program = str(jax.make_jaxpr(function)(params, given))
        products = program.count("dot_general[") + program.count("conv_general_dilated[")
        assert products
        assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
