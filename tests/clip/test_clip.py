"""Our CLIP equals transformers' torch CLIP and a NumPy CLIP, and reads every kind of folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import load_file, save_file

from clip import towers
from clip import weights as clip_weights
from clip.towers import Clip

REFERENCE = Path(__file__).parent.parent / "reference" / "clip_torch"
TINY = REFERENCE / "clip_tiny"
Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays], None]


@pytest.fixture(scope="module")
def tiny_clip() -> Clip:
    return towers.load(TINY)


@pytest.fixture(scope="module")
def vectors() -> Arrays:
    """The reference's inputs and outputs by name. Pictures are pixels in −1..1, not normalised."""
    found = {k.split("/")[1]: v for k, v in load_file(f"{TINY}.io.safetensors").items()}
    mean, std = (np.array(v) for v in clip_weights.PIXEL_STATISTICS.values())
    normal = found.pop("pixel_values").transpose(0, 2, 3, 1)
    found["pixels"] = (2 * (normal * std + mean) - 1).astype(np.float32)
    return found


def copy_of(
    folder: Path, change: Change = lambda arrays: None, **settings: dict[str, Any] | Any
) -> Path:
    """Write a copy of the tiny CLIP's folder with other weights and settings; sections of the
    settings are merged."""
    values = json.loads((TINY / "config.json").read_text())
    for name, value in settings.items():
        section = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = values[name] | value if section else value
    arrays = load_file(TINY / "model.safetensors")
    change(arrays)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    save_file(arrays, folder / "model.safetensors")
    return folder


def logits_per_image(clip: Clip, pixels: Any, *text: Any) -> Any:
    """The scaled similarity of every picture with every text."""
    return clip.scale * clip.image_features(pixels) @ clip.text_features(*text).T


def test_features_and_logits_are_those_of_the_reference(tiny_clip: Clip, vectors: Arrays) -> None:
    text = vectors["input_ids"], vectors["attention_mask"]
    for found, name in (
        (tiny_clip.image_features(vectors["pixels"]), "image_embeds"),
        (tiny_clip.text_features(*text), "text_embeds"),
        (logits_per_image(tiny_clip, vectors["pixels"], *text), "logits_per_image"),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, vectors[name], rtol=0, atol=2e-5, err_msg=name)


def norm(x: np.ndarray, weights: Arrays, name: str, epsilon: float) -> np.ndarray:
    unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def numpy_tower(
    x: np.ndarray, weights: Arrays, settings: dict[str, Any], prefix: str, visible: np.ndarray
) -> np.ndarray:
    """The output of a tower's layers for one sequence [t, d], computed head by head in float64."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    epsilon, heads = settings["layer_norm_eps"], settings["num_attention_heads"]
    for i in range(settings["num_hidden_layers"]):
        name = f"{prefix}.encoder.layers.{i}"
        h = norm(x, weights, f"{name}.layer_norm1", epsilon)
        q, k, v = (np.split(linear(h, f"{name}.self_attn.{c}_proj"), heads, 1) for c in "qkv")
        mixed = []
        for n in range(heads):
            scores = np.where(visible, q[n] @ k[n].T / np.sqrt(q[n].shape[1]), -np.inf)
            odds = np.exp(scores - scores.max(1, keepdims=True))
            mixed.append(odds / odds.sum(1, keepdims=True) @ v[n])
        x = x + linear(np.concatenate(mixed, 1), f"{name}.self_attn.out_proj")
        h = linear(norm(x, weights, f"{name}.layer_norm2", epsilon), f"{name}.mlp.fc1")
        if settings["hidden_act"] == "quick_gelu":
            h = h / (1 + np.exp(-1.702 * h))
        else:
            h = h * np.array(jax.scipy.stats.norm.cdf(h))
        x = x + linear(h, f"{name}.mlp.fc2")
    return x


def numpy_text(folder: Path, tokens: np.ndarray, visible: np.ndarray, end: int) -> np.ndarray:
    """The features of one text, whose end token is at position `end`."""
    settings = json.loads((folder / "config.json").read_text())["text_config"]
    weights = {k: v.astype(float) for k, v in load_file(folder / "model.safetensors").items()}
    x = weights["text_model.embeddings.token_embedding.weight"][tokens]
    x = x + weights["text_model.embeddings.position_embedding.weight"][: len(tokens)]
    seen = np.tril(np.ones((len(tokens), len(tokens)), bool)) & visible
    x = numpy_tower(x, weights, settings, "text_model", seen)
    x = norm(x[end], weights, "text_model.final_layer_norm", settings["layer_norm_eps"])
    found = x @ weights["text_projection.weight"].T
    return found / np.linalg.norm(found)


def numpy_image(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """The features of one picture."""
    settings = json.loads((folder / "config.json").read_text())["vision_config"]
    weights = {k: v.astype(float) for k, v in load_file(folder / "model.safetensors").items()}
    mean, std = (np.array(v) for v in clip_weights.PIXEL_STATISTICS.values())
    normal = ((pixels.astype(float) + 1) / 2 - mean) / std
    side = settings["patch_size"]
    corners = range(0, settings["image_size"] - side + 1, side)
    kernel = weights["vision_model.embeddings.patch_embedding.weight"].transpose(0, 2, 3, 1)
    patches = [normal[top : top + side, left : left + side] for top in corners for left in corners]
    x = np.stack(
        [weights["vision_model.embeddings.class_embedding"]]
        + [(kernel * patch[None]).sum((1, 2, 3)) for patch in patches]
    )
    x = x + weights["vision_model.embeddings.position_embedding.weight"]
    x = norm(x, weights, "vision_model.pre_layrnorm", settings["layer_norm_eps"])
    x = numpy_tower(x, weights, settings, "vision_model", np.ones((len(x), len(x)), bool))
    x = norm(x[0], weights, "vision_model.post_layernorm", settings["layer_norm_eps"])
    found = x @ weights["visual_projection.weight"].T
    return found / np.linalg.norm(found)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIP with unequal towers. The text tower has exact gelu, one layer and two
    heads. The picture's side is no multiple of the patches' side. The end token is that of old
    configurations."""

    def change(arrays: Arrays) -> None:
        for name in [n for n in arrays if n.startswith("text_model.encoder.layers.1.")]:
            del arrays[name]
        name = "vision_model.embeddings.patch_embedding.weight"
        arrays[name] = np.ascontiguousarray(arrays[name][..., :7, :7])

    return copy_of(
        tmp_path_factory.mktemp("clip") / "other",
        change,
        text_config={
            "hidden_act": "gelu",
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "layer_norm_eps": 1e-3,
            "eos_token_id": 2,
        },
        vision_config={"patch_size": 7},
    )


def test_other_towers_equal_a_numpy_one(other_folder: Path, vectors: Arrays) -> None:
    other, tokens = towers.load(other_folder), vectors["input_ids"].copy()
    tokens[0, 3] = 2  # this is no end token: the largest id is
    mask = vectors["attention_mask"] == 1
    text, image = other.text_features(tokens, mask), other.image_features(vectors["pixels"])
    for i, row in enumerate(tokens):
        expected = numpy_text(other_folder, row, mask[i], end=int(row.argmax()))
        np.testing.assert_allclose(text[i], expected, rtol=0, atol=2e-6)
    for i, picture in enumerate(vectors["pixels"]):
        np.testing.assert_allclose(
            image[i], numpy_image(other_folder, picture), rtol=0, atol=2e-6, err_msg=str(i)
        )


def test_features_are_taken_at_the_first_end_token(tiny_clip: Clip) -> None:
    tokens = np.array([[0, 30, 59, 7, 59]])
    expected = numpy_text(TINY, tokens[0], np.ones(5, bool), end=2)
    np.testing.assert_allclose(tiny_clip.text_features(tokens)[0], expected, rtol=0, atol=2e-6)


def test_tokens_after_the_end_token_have_no_influence(tiny_clip: Clip, vectors: Arrays) -> None:
    tokens, mask = vectors["input_ids"][1:], vectors["attention_mask"][1:]
    padded = tiny_clip.text_features(tokens, mask)
    other = np.where(mask == 1, tokens, 17)
    np.testing.assert_array_equal(tiny_clip.text_features(other, mask), padded)
    np.testing.assert_allclose(tiny_clip.text_features(tokens), padded, rtol=0, atol=1e-6)
    shorter = tiny_clip.text_features(tokens[:, :9], mask[:, :9] == 1)
    np.testing.assert_allclose(shorter, padded, rtol=0, atol=1e-6)


def test_pictures_of_other_sizes_are_fitted_as_pillow_does(tiny_clip: Clip) -> None:
    numbers = np.random.default_rng(0)
    for height, width, cut in ((80, 48, (10, 0)), (20, 24, (0, 3)), (32, 32, (0, 0))):
        pixels = numbers.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
        shorter = min(height, width)
        size = 32 * width // shorter, 32 * height // shorter
        planes = pixels.transpose(0, 3, 1, 2).reshape(-1, height, width)
        resized = [
            Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in planes
        ]
        expected = np.stack([np.asarray(plane) for plane in resized]).reshape(2, 3, *size[::-1])
        expected = expected.transpose(0, 2, 3, 1)
        top, left = cut
        expected = expected[:, top : top + 32, left : left + 32].clip(-1, 1)
        fitted = towers.fit_to_square(jnp.asarray(pixels), 32)
        np.testing.assert_allclose(fitted, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            tiny_clip.image_features(pixels), tiny_clip.image_features(fitted), rtol=0, atol=1e-6
        )


def test_the_folder_may_name_other_pixel_statistics(tmp_path: Path, vectors: Arrays) -> None:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5, 0.5, 1], "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(statistics))
    own, usual = towers.load(tmp_path), towers.load(TINY)
    mean, std = (np.array(v) for v in clip_weights.PIXEL_STATISTICS.values())
    normal = vectors["pixels"] * np.array([1, 1, 0.5])
    same = (2 * (normal * std + mean) - 1).astype(np.float32)
    np.testing.assert_allclose(
        own.image_features(vectors["pixels"]), usual.image_features(same), rtol=0, atol=1e-6
    )


def test_half_precision_parts_and_tables_of_positions_are_read(
    tmp_path: Path, tiny_clip: Clip
) -> None:
    arrays = load_file(TINY / "model.safetensors")
    half: Arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    half["text_model.embeddings.position_ids"] = np.arange(12)[None]
    half["vision_model.embeddings.position_ids"] = np.arange(17)[None]
    names = sorted(half)
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, some in parts.items():
        save_file({name: half[name] for name in some}, tmp_path / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(TINY / "config.json", tmp_path)
    found, whole = flatten_dict(towers.load(tmp_path).params), flatten_dict(tiny_clip.params)
    for name, array in whole.items():
        assert found[name].dtype == jnp.float32
        np.testing.assert_array_equal(found[name], np.asarray(array, np.float16), str(name))


def test_a_configuration_that_says_nothing_is_vit_b_32(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "clip"}')
    config = clip_weights.read_config(tmp_path)
    shapes = {n: a.shape for n, a in flatten_dict(towers.structure(config)[1], sep="/").items()}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 151_277_313  # as published
    keys = [key for leaf in clip_weights.plan(shapes).values() for key in leaf.keys]
    assert len(keys) == len(set(keys)) == 398
    old = {"text_config": {"hidden_size": 1, "eos_token_id": 2}, "text_config_dict": None}
    path.write_text(json.dumps({**old, "vision_config_dict": {"patch_size": 16}}))
    with pytest.raises(
        ValueError, match="hidden_size 1 is not a multiple of num_attention_heads 8"
    ):
        clip_weights.read_config(tmp_path)
    path.write_text(json.dumps({**old, "text_config_dict": {"eos_token_id": 2}}))
    assert clip_weights.read_config(tmp_path).text == config.text
    assert clip_weights.read_config(tmp_path).end_id is None


def test_text_and_pixels_that_clip_cannot_take_are_refused(tiny_clip: Clip) -> None:
    with pytest.raises(ValueError, match="texts of 13 tokens are longer than the 12"):
        tiny_clip.text_features(np.zeros((1, 13), np.int32))
    with pytest.raises(ValueError, match="run from 3 to 60, but this CLIP knows 0 to 59"):
        tiny_clip.text_features(np.array([[3, 60]]))
    with pytest.raises(ValueError, match=r"run from -1 to 59"):
        tiny_clip.text_features(np.array([[-1, 59]]))


def test_features_can_be_compiled_into_a_larger_program(tiny_clip: Clip, vectors: Arrays) -> None:
    compiled = jax.jit(lambda p, t: logits_per_image(tiny_clip, p, t).sum())
    expected = vectors["logits_per_image"].sum()
    assert abs(compiled(vectors["pixels"], vectors["input_ids"]) - expected) < 1e-4


def misshape(arrays: Arrays) -> None:
    arrays["text_projection.weight"] = arrays["text_projection.weight"][:, :5].copy()


def make_whole(arrays: Arrays) -> None:
    arrays["logit_scale"] = np.array(3)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda a: a.pop("logit_scale"), {}, r"first logit_scale: None instead of \(\)"),
        (lambda a: a.update(more=np.zeros(1)), {}, r"first more: \(1,\) instead of None"),
        (misshape, {}, r"text_projection.weight: \(20, 5\) instead of \(20, 32\)"),
        (make_whole, {}, "logit_scale as int64"),
        (dict, {"model_type": "siglip"}, "config.json describes a model of type 'siglip', not"),
        (dict, {"text_config": {"hidden_act": "relu"}}, "hidden_act relu is neither quick_gelu"),
        (dict, {"text_config": {"num_attention_heads": 0}}, "num_attention_heads 0"),
        (dict, {"text_config": {"num_hidden_layers": 2**20}}, "must be in 1..1024, not 1048576"),
        (dict, {"vision_config": {"patch_size": 0}}, "patch_size 0 must be in 1..image_size"),
        (dict, {"vision_config": {"num_channels": 4}}, "num_channels is 4"),
        (dict, {"text_config": "none"}, "text_config is 'none' instead of settings"),
        (dict, {"text_config": {"eos_token_id": [1, 2]}}, "eos_token_id must be a whole number"),
        (dict, {"projection_dim": 21}, r"text_projection.weight: \(20, 32\) instead of \(21, 32\)"),
    ],
)
def test_weights_and_settings_that_do_not_fit_are_named(
    tmp_path: Path, change: Change, settings: dict[str, Any], message: str
) -> None:
    folder = copy_of(tmp_path / "clip", change, **settings)
    with pytest.raises(ValueError, match=message) as caught:
        towers.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        (2**40).to_bytes(8, "little") + b"{}",
        b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
        (TINY / "model.safetensors").read_bytes()[:100_000],
    ],
    ids=["empty", "huge header", "pickle", "cut"],
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, data: bytes) -> None:
    folder = copy_of(tmp_path)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        towers.load(folder)


def test_missing_or_wrong_files_of_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config.json"):
        towers.load(tmp_path / "nowhere")
    (copy_of(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors"):
        towers.load(tmp_path)
    copy_of(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_std": [1, 1, 0]}')
    with pytest.raises(ValueError, match=r"preprocessor_config.json: image_std \[1, 1, 0\]"):
        towers.load(tmp_path)
