"""Checks that a tokenizer fits the text encoder in the same folder."""

from collections.abc import Mapping
from pathlib import Path

from common.json_files import read_json
from data.text.tokens import TextTokenizer

POSITIONS = {"bart": "max_position_embeddings", "clip": "max_position_embeddings", "t5": ""}
"""model_type → the setting that bounds a caption's length, if one does."""
_KINDS = {"bart": "bart", "clip": "clip", "clip_text_model": "clip", "t5": "t5", "mt5": "t5"}
_LEGACY_END = 2  # CLIP's configurations before 2023 name a token that no text has


def check_beside(folder: Path, tokenizer: TextTokenizer, text_length: int) -> None:
    """Raise ValueError where config.json beside a tokenizer is of BART, CLIP or T5 and says another
    end or padding token, fewer tokens, or a shorter text; the message names the setting."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    model_type = _KINDS.get(str(values.get("model_type")))
    if model_type is None:
        return
    settings = values.get("text_config", values) if model_type == "clip" else values
    settings = settings if isinstance(settings, dict) else {}
    _check_ids(path, model_type, settings, tokenizer)
    most = settings.get(POSITIONS[model_type])
    if isinstance(most, int) and text_length > most:
        raise ValueError(
            f"text_length {text_length} is more than {POSITIONS[model_type]} {most} in {path}; use "
            f"--text_length={most} or less"
        )


def _check_ids(
    path: Path, model_type: str, settings: Mapping[str, object], tokenizer: TextTokenizer
) -> None:
    size, end, pad = (settings.get(n) for n in ("vocab_size", "eos_token_id", "pad_token_id"))
    if isinstance(size, int) and tokenizer.vocab_size > size:
        raise ValueError(
            f"the tokenizer in {path.parent} has {tokenizer.vocab_size} tokens, and vocab_size in "
            f"{path} is {size}: it is another model's"
        )
    if model_type == "clip":
        end, pad = (None if end == _LEGACY_END else end), None  # the mask hides its padding
    wanted = {"eos_token_id": (end, tokenizer.end_id), "pad_token_id": (pad, tokenizer.pad_id)}
    for name, (there, ours) in wanted.items():
        if isinstance(there, int) and there != ours:
            raise ValueError(
                f"the tokenizer in {path.parent} has {name} {ours}, and {path} says {there}; name "
                f"the token of number {there} in its tokenizer_config.json"
            )
