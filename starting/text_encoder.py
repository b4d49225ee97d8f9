"""--text_encoder=FOLDER: training starts from the text encoder of another program."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from common.json_files import read_json
from common.settings import to_tree
from config import Config, from_yaml
from data.mixture import first_folder
from data.text.captions import CLEAN, compare_tokenizers, hash_vocabulary
from model.config import ModelConfig
from model.pretrained import TOKENIZER_FILES
from model.transformer import Params
from published import encoders
from training.saved import runs
from training.saved.finetuning import fit_params
from weights.releases import CONFIG_FILE
from weights.settings import configuring


def with_text_encoder(config: Config) -> Config:
    """The configuration with the settings of the encoder in `text_encoder`. If the folder is
    missing, a run that already has the settings keeps them.

    Raises:
        ValueError: the folder has no text encoder, or it does not fit the settings or the records.
    """
    if not config.text_encoder:
        return config
    folder = Path(config.text_encoder)
    saved = Path(config.output_dir or "") / "config.yaml"
    if not folder.exists() and config.output_dir and saved.is_file():
        old = from_yaml(Config, saved)
        if old.text_encoder == config.text_encoder:
            return dataclasses.replace(config, model=encoders.with_encoder(config.model, old.model))
    layout, encoder = _read_settings(folder)
    most = encoder.text_length
    if layout.has_length and config.model.text_length > most:
        raise ValueError(
            f"model.text_length {config.model.text_length} is more than the {most} tokens that "
            f"text_encoder {folder} has positions for; encode captions with --text_length={most}, "
            f"and use --model.text_length={most}"
        )
    try:
        model = encoders.with_encoder(config.model, encoder)
    except ValueError as error:
        raise ValueError(f"text_encoder {folder} does not fit: {error}") from None
    _check_tokenizer(folder, Path(first_folder(config.data.records)))
    return dataclasses.replace(config, model=model)


def with_text_weights(
    config: Config, fresh: Params, fetch: Callable[[jax.Array], np.ndarray]
) -> tuple[Params, list[str]]:
    """(the fresh parameters with the text encoder's weights, lines for the logbook). `fetch`
    returns an array of `fresh` as numpy.

    Raises:
        ValueError: naming the file, and the array that is missing or of another shape.
    """
    folder = Path(config.text_encoder)
    layout, encoder = _read_settings(folder)
    loaded, rest = encoders.read_params(folder, layout, encoder)
    replaced = {name: fresh[name] for name in loaded}
    params, lines = fit_params(loaded, replaced, {}, fetch)
    return {**fresh, **params}, [f"text encoder of {folder}: {_describe(encoder)}", *rest, *lines]


def _read_settings(folder: Path) -> tuple[encoders.Layout, ModelConfig]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"text_encoder {folder} has no {CONFIG_FILE}; name a folder of BART, CLIP or T5 with "
            "config.json and model.safetensors"
        )
    values = read_json(path)
    with configuring(path, "a text encoder"):
        layout = encoders.layout_of(values)
        return layout, layout.read(values)


def _check_tokenizer(folder: Path, records: Path) -> None:
    """Raise ValueError if the records were encoded with another tokenizer than the text encoder's:
    their token ids would mean other words."""
    tokenizer = records / "tokenizer"
    if not tokenizer.is_dir() or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return
    if hash_vocabulary(folder) != hash_vocabulary(tokenizer):
        raise ValueError(
            f"the captions of {records} were read by another tokenizer than text_encoder's, "
            f"{folder}; encode again with --tokenizer={folder}"
        )
    compare_tokenizers(folder, CLEAN, tokenizer, str(folder))


def describe_changes(before: ModelConfig, after: ModelConfig) -> str:
    """A text such as "model.encoder_depth (was 2, now 12)"."""
    changes = runs.differences(to_tree(before), to_tree(after))
    shown = {name: values for name, values in changes.items() if not name.startswith("encoder.")}
    return runs.describe({f"model.{name}": values for name, values in shown.items()})


def _describe(encoder: ModelConfig) -> str:
    tokens = f"{encoder.text_vocab_size:,} tokens"
    return f"{encoder.encoder_depth} layers of width {encoder.dim}, {tokens}"
