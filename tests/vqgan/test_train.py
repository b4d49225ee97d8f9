"""`python -m vqgan.train` on a folder of small pictures runs, resumes and releases."""

import dataclasses
import shlex
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from command_line.parser import parse_config
from common.batch import PictureBatch
from common.pixels import to_floats
from config import from_yaml
from optim.config import OptimConfig
from tests.tiny import ONE_LEVEL_VQGAN, first_vqgan
from tests.vqgan.runs import config_of, metrics, same
from training.config import GridsConfig, ParallelConfig
from training.session import train
from training.update.build import make_state
from training.update.loss import LossContext
from training.update.shared import Programs
from vqgan import pretrained
from vqgan.autoencoder import build
from vqgan.config import DiscriminatorConfig, LossConfig, QuantizerConfig, VQGANConfig
from vqgan.finetuning import fit, keeps_codebook
from vqgan.losses import reconstruction_loss
from vqgan.objective import make_loss
from vqgan.recipe import make_recipe
from vqgan.renewal import make_renewals
from vqgan.run_config import VQGANRunConfig
from vqgan.sets import PicturesConfig
from vqgan.train import main

FOUR_DEVICES = ParallelConfig()
MODEL = ONE_LEVEL_VQGAN
"""It compiles in half the time of two levels, which test_fixed.py trains."""
SIDE = MODEL.image_size
SHARED = Programs()
"""Compiled programs of all runs on one device; training/test_shared.py tests the sharing."""


@pytest.fixture(autouse=True)
def share_programs(monkeypatch):
    monkeypatch.setattr("vqgan.train.train", partial(train, programs=SHARED))


@pytest.fixture
def run_config(source, tmp_path):
    return config_of(source, tmp_path / "run", MODEL)


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory):
    """A finished run on four devices. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    config = config_of(source, folder, MODEL)
    main(dataclasses.replace(config, grids=GridsConfig(every=0), parallel=FOUR_DEVICES))
    return folder


def test_stop_and_resume_equal_a_straight_run(run_config, straight, tmp_path):
    stopped = tmp_path / "stopped"  # as if it was killed after the checkpoint of step 3
    shutil.copytree(straight, stopped)
    for name in ("checkpoints/6", "vqgan", "grids"):
        shutil.rmtree(stopped / name)
    main(dataclasses.replace(run_config, output_dir=str(stopped), parallel=FOUR_DEVICES))
    assert [row["step"] for row in metrics(straight)] == [1, 2, 3, 4, 5, 6]
    assert metrics(straight) == metrics(stopped)
    for name in (pretrained.WEIGHTS_FILE, pretrained.CONFIG_FILE):
        released = [run / "vqgan" / name for run in (straight, stopped)]
        assert released[0].read_bytes() == released[1].read_bytes()
    card = (straight / "vqgan" / "MODEL_CARD.md").read_text()
    assert "6 updates" in card
    assert len(list((straight / "grids").glob("*.png"))) == 1


def batch_of(pixels: np.ndarray) -> PictureBatch[jax.Array]:
    index = np.arange(len(pixels), dtype=np.int32)
    return {"pixels": jax.numpy.asarray(pixels), "example_index": jax.numpy.asarray(index)}


def test_a_warm_codebook_moves_only_with_the_loss_of_quantized_pictures(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = first_vqgan(tiny_vqgan)
    loss = make_loss(autoencoder, LossConfig(), warmup_steps=3)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)

    @jax.jit
    def codebook_gradient(params, batch, step):
        keys = jax.random.split(jax.random.key(1), 4)
        return jax.grad(lambda p: loss(p, batch, keys, LossContext(step))[0])(params)["codebook"]

    batch = batch_of(pixels)
    assert np.abs(codebook_gradient(params, batch, 2)).max() == 0
    assert np.abs(codebook_gradient(params, batch, 3)).max() > 0


def test_a_started_codebook_is_used_whole_and_stays_when_refreshed(tiny_vqgan):
    autoencoder = build(tiny_vqgan)
    params = first_vqgan(tiny_vqgan)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 16, 16, 3), dtype=np.uint8)
    start, refresh = make_renewals(autoencoder)
    codebook = start(params, jax.numpy.asarray(pixels), jax.random.key(1))
    np.testing.assert_allclose(np.linalg.norm(codebook, axis=-1), 1, rtol=1e-5)
    again = refresh({**params, "codebook": codebook}, jax.numpy.asarray(pixels), jax.random.key(2))
    assert np.isclose(again, codebook, atol=1e-6).all(axis=-1).mean() > 0.9


def test_an_empty_folder_is_one_clear_error(run_config, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        main(
            dataclasses.replace(run_config, data=PicturesConfig(source=(str(tmp_path / "empty"),)))
        )


def test_a_run_without_time_for_a_codebook_is_refused(run_config):
    late = QuantizerConfig(warmup_steps=6)
    with pytest.raises(ValueError, match="warmup_steps=1"):
        main(dataclasses.replace(run_config, quantizer=late))


@pytest.mark.parametrize("setting", ["compute_dtype", "param_dtype"])
def test_another_precision_is_refused(run_config, setting):
    """The layers are float32 only: a bfloat16 kernel would stop inside a convolution."""
    half = dataclasses.replace(run_config.training, **{setting: "bfloat16"})
    with pytest.raises(ValueError, match=f"--training.{setting}=float32"):
        dataclasses.replace(run_config, training=half)


@pytest.mark.parametrize("frozen", [{"freeze": ("code*",)}, {"train_only": ("decoder/*",)}])
def test_a_frozen_codebook_is_not_renewed(run_config, frozen):
    optim = OptimConfig(**frozen)
    for warmup, every in ((2, 0), (0, 2)):
        renewed = QuantizerConfig(warmup_steps=warmup, refresh_every=every, refresh_pictures=32)
        with pytest.raises(ValueError, match=f"{warmup} warmup_steps.* refresh_every {every}"):
            dataclasses.replace(run_config, optim=optim, quantizer=renewed)
    kept = QuantizerConfig(warmup_steps=0, refresh_every=0, refresh_pictures=32)
    dataclasses.replace(run_config, optim=optim, quantizer=kept)


@pytest.fixture
def given(tmp_path):
    """A folder of weights to start from, and its content."""
    pretrained.save(tmp_path / "given", MODEL, first_vqgan(MODEL, 7))
    return str(tmp_path / "given"), pretrained.load(tmp_path / "given")[1]


STILL = OptimConfig(learning_rate=0.0, clip_norm=0.0)
"""Updates that change nothing."""


def tune(config, given, warmup, optim=STILL, **changes):
    """The weights after two updates."""
    main(
        dataclasses.replace(
            config,
            init_from=given,
            optim=optim,
            model=dataclasses.replace(config.model, **changes),
            quantizer=dataclasses.replace(config.quantizer, warmup_steps=warmup, refresh_every=0),
            training=dataclasses.replace(config.training, steps=2),
        )
    )
    return pretrained.load(f"{config.output_dir}/vqgan")[1]


def test_a_run_starts_from_given_weights_and_keeps_their_codebook(run_config, given):
    assert same(tune(run_config, given[0], 0), given[1])


@pytest.mark.parametrize(
    ("warmup", "changes"),
    [
        (0, {"codebook_size": 48}),
        pytest.param(1, {}, marks=pytest.mark.slow),
        pytest.param(0, {"codebook_size": 16}, marks=pytest.mark.slow),
    ],
)
def test_a_new_codebook_is_started_by_kmeans(run_config, given, warmup, changes):
    found, old = tune(run_config, given[0], warmup, **changes), given[1]
    codes = found["codebook"]
    assert len(codes) == changes.get("codebook_size", 32)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=-1), 1, rtol=1e-2)
    assert all(same(found[part], old[part]) for part in ("encoder", "decoder"))


@pytest.mark.parametrize(
    "optim",
    [
        dataclasses.replace(STILL, ema_decay=0.9),
        dataclasses.replace(STILL, name="schedule_free", decay_fraction=0.0),
    ],
    ids=["ema", "schedule_free"],
)
def test_a_new_codebook_is_in_each_copy_of_the_weights(run_config, given, optim):
    """The average is what is released. A copy that kept the old codes would show in it."""
    codes = tune(run_config, given[0], 1, optim)["codebook"]
    np.testing.assert_allclose(np.linalg.norm(codes, axis=-1), 1, rtol=1e-2)


def test_weights_fit_a_model_of_another_picture_size(run_config, given):
    larger = dataclasses.replace(run_config.model, image_size=2 * SIDE)
    fresh = jax.eval_shape(build(larger).init, jax.random.key(0))
    assert same(fit(given[0], larger, fresh)[0], given[1])
    assert keeps_codebook(given[0], larger, 0)
    assert not keeps_codebook(given[0], larger, 1)


# The test above holds what a run begins with; the one of 16 pixels, that it keeps it.
@pytest.mark.slow
def test_weights_serve_pictures_of_another_size(run_config, given):
    assert same(tune(run_config, given[0], 0, image_size=2 * SIDE), given[1])


def test_weights_of_another_model_are_refused_by_name(run_config, given):
    with pytest.raises(
        ValueError, match=r"a different model: model\.latent_channels \(is 4 there, 8 h"
    ):
        tune(run_config, given[0], 0, latent_channels=8)


def test_missing_weights_are_refused(run_config, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tune(run_config, str(tmp_path / "nowhere"), 0)


def test_a_run_from_given_weights_resumes_without_them(run_config, given, tmp_path):
    config = dataclasses.replace(run_config, init_from=given[0])
    main(config)
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "run", stopped)
    for name in ("checkpoints/6", "vqgan"):
        shutil.rmtree(stopped / name)
    shutil.rmtree(given[0])
    main(dataclasses.replace(config, output_dir=str(stopped)))
    assert metrics(tmp_path / "run") == metrics(stopped)


@pytest.fixture
def grid_config(run_config):
    model = dataclasses.replace(
        run_config.model, lookup="fsq", fsq_levels=(4, 4, 3), code_dim=3, codebook_size=48
    )
    return dataclasses.replace(run_config, model=model, quantizer=QuantizerConfig(10**6))


def test_a_grid_is_trained_with_and_released_without_a_codebook(grid_config):
    main(grid_config)
    config, params = pretrained.load(f"{grid_config.output_dir}/vqgan")
    assert config == grid_config.model
    assert set(params) == {"encoder", "decoder"}
    autoencoder = build(config)
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE, 3)).astype(np.float32)
    tokens = jax.jit(autoencoder.encode)(params, pixels)
    assert tokens.shape == (3, 4)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 48
    assert jax.jit(autoencoder.decode)(params, tokens).shape == pixels.shape


def test_a_grid_passes_the_decoder_s_gradient_to_the_encoder(grid_config):
    autoencoder = build(grid_config.model)
    params = first_vqgan(grid_config.model)
    loss = make_loss(autoencoder, LossConfig(), 10**6)
    pixels = np.random.default_rng(0).integers(0, 255, (4, SIDE, SIDE, 3), dtype=np.uint8)

    @jax.jit
    def run(params, batch):
        context, keys = LossContext(jax.numpy.array(0)), jax.random.split(jax.random.key(1), 4)
        value, gradient = jax.value_and_grad(lambda p: loss(p, batch, keys, context)[0])(params)
        floats = to_floats(batch["pixels"])
        off_grid = autoencoder.decode_latents(params, autoencoder.latents(params, floats))
        return value, gradient, reconstruction_loss(floats, off_grid, LossConfig())

    value, gradient, painted = run(params, batch_of(pixels))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["encoder"]["to_code"]))
    assert float(value) != pytest.approx(float(painted), rel=1e-6)  # quantised from the start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lookup": "nearest"}, r"belong together, not nearest and \(4, 4, 3\)"),
        ({"fsq_levels": ()}, "belong together, not fsq"),
        ({"fsq_levels": (1, 48)}, "at least 2 each"),
        ({"code_dim": 4}, "try --model.code_dim=3 --model.codebook_size=48"),
        ({"codebook_size": 49}, "a codebook of 48, not 3 and 49"),
    ],
)
def test_levels_and_sizes_of_a_grid_agree(grid_config, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(grid_config.model, **changes)


def test_the_flags_that_a_message_names_make_a_grid():
    """The flags are split as a shell does it."""
    with pytest.raises(ValueError, match="try") as refusal:
        VQGANConfig(lookup="fsq")
    words = shlex.split(str(refusal.value).partition("try ")[2])
    model = parse_config(VQGANRunConfig, ["--data.source=pictures", *words]).model
    assert (model.lookup, model.fsq_levels) == ("fsq", (8, 8, 8, 8))


@pytest.fixture
def game_config(run_config):
    return dataclasses.replace(
        run_config,
        loss=LossConfig(adversarial=0.8, adversarial_from=2),
        discriminator=DiscriminatorConfig(channels=(4, 8)),
    )


def last_state(config):
    return train(config, make_recipe, from_yaml, SHARED)


def test_both_players_move_and_resume_bit_for_bit(game_config, tmp_path):
    straight = last_state(game_config)
    recipe = make_recipe(game_config)
    start = make_state(game_config, recipe.init, recipe.players)()
    for one, other in ((straight.params, start.params), (straight.players, start.players)):
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), one, other)
        assert jax.tree.all(moved), moved
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "run", stopped)
    for name in ("checkpoints/6", "vqgan"):
        shutil.rmtree(stopped / name)
    resumed = last_state(dataclasses.replace(game_config, output_dir=str(stopped)))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)

    rows = metrics(tmp_path / "run")
    assert rows == metrics(stopped)
    names = ("loss", "right_on_real", "right_on_fake", "norm/grad")
    for name in (f"discriminator/{name}" for name in names):
        assert [row[name] is None for row in rows] == [True, True, False, False, False, False]
    assert [row["train/adversarial_weight"] > 0 for row in rows] == [False] * 2 + [True] * 4
    assert len({row["discriminator/loss"] for row in rows[2:]}) == 4
    _, released = pretrained.load(tmp_path / "run" / "vqgan")
    assert set(released) == {"encoder", "decoder", "codebook"}


NO_GAME = LossConfig(adversarial=0.0, adversarial_from=10**6)


def loss_of(recipe):
    """The program of a recipe's loss, as text."""
    params = jax.eval_shape(recipe.init, jax.random.key(0))
    batch = {"pixels": jax.ShapeDtypeStruct((4, SIDE, SIDE, 3), np.uint8)}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    step = jax.ShapeDtypeStruct((), np.int32)
    loss = lambda *given, step: recipe.loss(*given, LossContext(step))  # noqa: E731
    return str(jax.make_jaxpr(loss)(params, batch, keys, step=step))


def test_without_weight_the_loss_knows_no_second_player(run_config, game_config):
    none = make_recipe(dataclasses.replace(game_config, loss=NO_GAME))
    assert none.players == {}
    assert loss_of(none) == loss_of(make_recipe(run_config))


# The test above compares the programs.
@pytest.mark.slow
def test_without_weight_there_is_no_second_player(straight, game_config):
    off = dataclasses.replace(game_config, loss=NO_GAME, parallel=FOUR_DEVICES)
    assert make_recipe(off).players == {}
    state = last_state(dataclasses.replace(off, output_dir=f"{off.output_dir}_off"))
    assert state.players is None
    rows = metrics(straight)
    assert rows == metrics(Path(f"{off.output_dir}_off"))
    assert not any("discriminator" in name or "adversarial" in name for name in rows[-1])


@pytest.mark.parametrize(
    ("loss", "channels", "message"),
    [
        (LossConfig(adversarial=0.8, adversarial_from=6), (4,), "try --loss.adversarial_from=3"),
        (LossConfig(adversarial=0.8, adversarial_from=0), (4,) * 5, "halved 4 times; name 4 "),
    ],
)
def test_a_discriminator_that_cannot_play_is_refused(source, tmp_path, loss, channels, message):
    run_config = config_of(source, tmp_path / "run")
    layout = DiscriminatorConfig(channels=channels)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(run_config, loss=loss, discriminator=layout)


def test_before_the_codebook_pictures_are_judged_without_it(run_config):
    """At the beginning its random codes would turn reconstructions into noise."""
    share = QuantizerConfig(warmup_share=0.5, refresh_every=0, refresh_pictures=32)
    training = dataclasses.replace(run_config.training, eval_every=1)
    main(dataclasses.replace(run_config, quantizer=share, training=training))
    rows = metrics(Path(run_config.output_dir))
    psnr = [row["eval/all/psnr"] for row in rows if "eval/all/psnr" in row]
    assert len(psnr) == 6
    smooth = np.array([row["train/psnr"] for row in rows if "train/psnr" in row])
    assert abs(psnr[1] - smooth[2]) < 1.5, "as training sees them"
    assert share.warmup(6) == 3
    assert share.warmup(1) == 0
    assert QuantizerConfig(warmup_steps=2).warmup(100) == 2


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_no_codebook_is_refused(share):
    with pytest.raises(ValueError, match="quantizer.warmup_share"):
        QuantizerConfig(warmup_share=share)
