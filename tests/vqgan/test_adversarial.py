"""The patch discriminator, its losses, and the weight of its term in the autoencoder's loss."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.pixels import to_floats
from optim.config import OptimConfig
from optim.optimizers import make_optimizer
from tests.spread import spread_step
from tests.tiny import ONE_LEVEL_VQGAN, first_vqgan
from training.config import ParallelConfig
from training.devices import in_step, parallel, placing
from training.devices.devices import find_devices
from training.update.loss import LossContext
from training.update.players import Player
from training.update.state import TrainState
from training.update.step_metrics import to_row
from vqgan import adversarial, discriminator, objective, quantizer
from vqgan.adversarial import NAME, Opponent, adaptive_weights, kernel_norms
from vqgan.autoencoder import build
from vqgan.config import DiscriminatorConfig, LossConfig
from vqgan.losses import reconstruction_loss

LAYOUT = DiscriminatorConfig(channels=(4, 8))
SIDE = 16
LIMITED = 6.0  # some pictures below have smaller ratios, some larger ones


def picture_batch(rows=8):
    pixels = np.random.default_rng(0).integers(0, 255, (rows, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[: rows // 2] //= 8  # dark pictures have other gradients
    return {"pixels": pixels, "example_index": np.arange(rows, dtype=np.int32)}


@cache
def random_params(layout=LAYOUT):
    return jax.jit(partial(discriminator.init, layout))(jax.random.key(5))


def logits_of(layout, params, pixels):
    return jax.jit(partial(discriminator.apply, layout))(params, pixels)


@pytest.mark.parametrize("channels", [(3,), (4, 8), (4, 8, 16)])
def test_there_is_a_logit_for_each_patch(channels):
    layout = DiscriminatorConfig(channels=channels)
    pixels = jnp.zeros((2, 16, 32, 3))
    logits = logits_of(layout, random_params(layout), pixels)
    levels = len(channels)
    assert logits.shape == (2, 16 // 2**levels, 32 // 2**levels)


def test_a_level_is_patchgan_s_convolution_of_4_by_4_and_stride_2():
    layout = DiscriminatorConfig(channels=(5,))
    params = random_params(layout)
    pixels = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE, 3))
    folded = params["level_0"]["conv"]["kernel"].reshape(2, 2, 2, 2, 3, 5)
    kernel = folded.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 3, 5)
    hidden = jax.lax.conv_general_dilated(
        pixels, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    hidden = jnp.where(hidden > 0, hidden, 0.2 * hidden)
    logits = jax.lax.conv_general_dilated(
        *(hidden, params["logit"]["kernel"], (1, 1), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[..., 0]
    found = logits_of(layout, params, pixels)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


def test_a_logit_sees_its_patch_of_38_pixels_and_no_other_picture():
    layout = DiscriminatorConfig()
    params = random_params(layout)
    centre = lambda x: discriminator.apply(layout, params, x)[0, 4, 4]  # noqa: E731
    seen = jax.jit(jax.grad(centre))(jax.random.normal(jax.random.key(0), (2, 64, 64, 3)))
    rows, columns = np.nonzero(np.abs(seen[0]).sum(-1))
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == 38
    assert not np.any(seen[1])


def test_hinge_losses_are_those_of_numpy():
    random = np.random.default_rng(0)
    real, fake = random.normal(0, 2, (2, 3, 4, 4)).astype(np.float32)
    expected = (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2
    of_numpy, (real, fake) = (real, fake), map(jnp.asarray, (real, fake))
    assert discriminator.hinge_loss(real, fake) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(
        discriminator.generator_loss(fake), -of_numpy[1].reshape(3, -1).mean(1), rtol=1e-4
    )
    shares = discriminator.share_right(real, fake)
    assert np.allclose(shares, [(of_numpy[0] > 0).mean(), (of_numpy[1] < 0).mean()])
    assert discriminator.hinge_loss(0 * real, 0 * fake) == 1


def test_weights_are_ratios_of_norms_within_the_limit():
    config = LossConfig(adversarial=0.5, adversarial_limit=10.0)
    pixels, patches = jnp.array([3.0, 1.0, 0.0]), jnp.array([2.0, 0.0, 1.0])
    found = adaptive_weights(pixels, patches, config)
    np.testing.assert_allclose(found, [0.5 * 3 / 2.0001, 0.5 * 10, 0.0], rtol=1e-6)


@pytest.fixture
def game(tiny_vqgan):
    config = LossConfig(adversarial=0.8, adversarial_from=0)
    autoencoder = build(tiny_vqgan)
    return autoencoder, config, Opponent(autoencoder, config, LAYOUT)


def context_of(step, params):
    return LossContext(jnp.int32(step), {"model": params, NAME: random_params()})


def test_a_picture_s_norm_is_that_of_the_last_kernel_s_gradient(game):
    autoencoder, config, _ = game
    params = first_vqgan(autoencoder.config)
    pixels = to_floats(jnp.asarray(picture_batch()["pixels"]))
    latents = jax.jit(autoencoder.latents)(params, pixels)

    def loss_of_last(kernel, i):
        decoder = params["decoder"]
        conv = {**decoder["head"]["conv"], "kernel": kernel}
        changed = {**decoder, "head": {**decoder["head"], "conv": conv}}
        painted = autoencoder.decode_latents({**params, "decoder": changed}, latents[i][None])
        return reconstruction_loss(pixels[i][None], painted, config)

    kernel = params["decoder"]["head"]["conv"]["kernel"]
    gradient = jax.jit(jax.grad(loss_of_last))
    expected = [np.linalg.norm(gradient(kernel, i)) for i in range(8)]

    @jax.jit
    def norms(params):
        features = autoencoder.features(params, latents)
        painted = autoencoder.project(params, features)
        pull = jax.grad(lambda x: len(pixels) * reconstruction_loss(pixels, x, config))(painted)
        return kernel_norms(autoencoder, params, features, pull)

    found = norms(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_gradient_is_that_of_the_weighted_terms(game):
    """The reference is plain differentiation with the weights as constants."""
    autoencoder, config, opponent = game
    params = first_vqgan(autoencoder.config)
    context, batch = context_of(0, params), picture_batch()
    batch = jax.tree.map(jnp.asarray, batch)
    keys = jax.random.split(jax.random.key(1), 8)
    with_term = objective.make_loss(autoencoder, config, 0, opponent)
    without = objective.make_loss(autoencoder, config, 0)
    pixels = to_floats(batch["pixels"])
    forward = objective.make_forward(autoencoder, 0)

    def losses(params):
        painted = forward(params, pixels, jnp.int32(0)).reconstruction
        return discriminator.generator_loss(
            discriminator.apply(LAYOUT, context.players[NAME], painted)
        )

    def by_hand(params, weights):
        return without(params, batch, keys, context)[0] + (weights * losses(params)).mean()

    painted = jax.jit(forward)(params, pixels, jnp.int32(0))
    on_pixels = lambda x: 8 * reconstruction_loss(pixels, x, config)  # noqa: E731
    on_patches = lambda x: discriminator.generator_loss(  # noqa: E731
        discriminator.apply(LAYOUT, context.players[NAME], x)
    ).sum()
    pull, push = (jax.jit(jax.grad(f))(painted.reconstruction) for f in (on_pixels, on_patches))
    norms = jax.jit(partial(kernel_norms, autoencoder, params, painted.features))
    weights = adaptive_weights(norms(pull), norms(push), config)
    assert np.ptp(weights) > 0.01
    expected = jax.jit(jax.value_and_grad(by_hand))(params, weights)
    one = lambda params: with_term(params, batch, keys, context)  # noqa: E731
    (value, metrics), grads = jax.jit(jax.value_and_grad(one, has_aux=True))(params)
    assert value == pytest.approx(float(expected[0]), rel=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-6), grads, expected[1])
    assert metrics["train/adversarial_weight"] == pytest.approx(float(weights.mean()), rel=1e-5)
    assert metrics["train/adversarial_loss"] == pytest.approx(
        float(jax.jit(losses)(params).mean()), rel=1e-5
    )


def test_before_its_first_step_the_term_changes_nothing(game):
    autoencoder, _, _ = game
    config = LossConfig(adversarial=0.8, adversarial_from=3)
    params = first_vqgan(autoencoder.config)
    batch = {name: jnp.asarray(values) for name, values in picture_batch().items()}
    keys = jax.random.split(jax.random.key(1), 8)
    with_term = objective.make_loss(autoencoder, config, 0, Opponent(autoencoder, config, LAYOUT))
    without = objective.make_loss(autoencoder, config, 0)

    @jax.jit
    def both(step):
        given = batch, keys, context_of(step, params)
        return [jax.value_and_grad(f, has_aux=True)(params, *given) for f in (with_term, without)]

    ((value, metrics), grads), ((plain, _), plain_grads) = both(2)
    assert value == plain
    # An extra term of 0 makes another program, which may round differently.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), grads, plain_grads)
    assert metrics["train/adversarial_weight"] == 0
    assert np.isnan(metrics["train/adversarial_loss"])
    ((value, metrics), _), ((plain, _), _) = both(3)
    assert value != plain
    assert metrics["train/adversarial_weight"] > 0


def test_without_a_discriminator_the_loss_is_the_one_there_was(tiny_vqgan):
    """It is bit-equal to the loss of quantised latents that are decoded at once."""
    autoencoder, config = build(tiny_vqgan), LossConfig()
    params = first_vqgan(autoencoder.config)
    batch = {name: jnp.asarray(values) for name, values in picture_batch().items()}
    keys = jax.random.split(jax.random.key(1), 8)

    def before(params, batch, keys, context):
        pixels = to_floats(batch["pixels"])
        latents = autoencoder.latents(params, pixels)
        quantized = quantizer.quantize(autoencoder.codes(params), latents)
        is_quantized = context.step >= 1
        painted = autoencoder.decode_latents(
            params, jnp.where(is_quantized, quantized.latents, latents)
        )
        pull = (
            config.codebook * quantized.codebook_loss
            + config.commitment * quantized.commitment_loss
        )
        return reconstruction_loss(pixels, painted, config) + is_quantized * pull

    now = lambda *given: objective.make_loss(autoencoder, config, 1)(*given)[0]  # noqa: E731
    both = [jax.jit(jax.value_and_grad(f)) for f in (now, before)]
    for step in (0, 1):
        given = params, batch, keys, LossContext(jnp.int32(step))
        one, other = (f(*given) for f in both)
        jax.tree.map(np.testing.assert_array_equal, one, other)


@cache
def update(layout, config, micro_batches, devices):
    """The state and the metrics after two updates of both players."""
    autoencoder = build(layout)
    places = find_devices(devices)
    optimizer = make_optimizer(OptimConfig(name="sgd", clip_norm=0.0, beta1=0.0))
    rate = lambda step: jnp.float32(1e-2)  # noqa: E731
    loss = objective.make_loss(autoencoder, config, 0, Opponent(autoencoder, config, LAYOUT))
    forward = objective.make_forward(autoencoder, 0)
    own = adversarial.make_discriminator_loss(
        LAYOUT, lambda p, x, context: forward(p, x, context.step).reconstruction, to_floats
    )
    params, of_critic = first_vqgan(layout), random_params()  # a program draws them once
    players = {
        NAME: Player(
            lambda key: of_critic,
            in_step.with_gathered_params(own, places),
            *(optimizer, rate, 1),
        )
    }
    step = spread_step(
        places, loss, optimizer, rate, micro_batches=lambda rows: micro_batches, players=players
    )
    create = partial(TrainState.create, lambda key: params, optimizer, 0, players=players)
    state, compiled = placing.create(create, places), parallel.compile_step(step, places)
    for _ in range(2):
        state, metrics = compiled(state, picture_batch())
    return placing.on_first_device((state.params, state.players)), to_row(metrics)


@pytest.mark.parametrize(
    ("micro_batches", "devices"),
    [
        (2, ParallelConfig(devices=2)),
        pytest.param(4, ParallelConfig(devices=1), marks=pytest.mark.slow),
        (1, ParallelConfig(mode="mesh", fsdp=2)),
    ],
)
def test_micro_batches_and_devices_make_no_difference(micro_batches, devices):
    layout = dataclasses.replace(ONE_LEVEL_VQGAN, image_size=SIDE)
    config = LossConfig(adversarial=0.8, adversarial_from=1, adversarial_limit=LIMITED)
    whole, expected = update(layout, config, 1, ParallelConfig(devices=1))
    assert 0 < expected["train/adversarial_weight"] < 0.8 * LIMITED
    found, metrics = update(layout, config, micro_batches, devices)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossConfig(adversarial=-1.0), r"loss\.adversarial cannot be negative, not -1\.0"),
        (lambda: LossConfig(l1=-0.5), r"loss\.l1 cannot be negative, not -0\.5"),
        (lambda: LossConfig(commitment=-1.0), r"loss\.commitment cannot be negative"),
        (lambda: LossConfig(adversarial_limit=0.0), "adversarial_limit 0.0 must be positive"),
        (lambda: DiscriminatorConfig(channels=()), "one or more numbers"),
        (lambda: DiscriminatorConfig(channels=(8, 0)), "at least 1, not"),
        (lambda: DiscriminatorConfig(learning_rate=-1.0), "learning_rate -1.0"),
        (lambda: DiscriminatorConfig(beta2=1.0), "beta2 1.0"),
    ],
)
def test_settings_that_make_no_game_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
