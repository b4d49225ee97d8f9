"""Captions to fixed-length rows of text tokens: cleaning, a byte-level BPE, other tokenizers.

Sennrich et al. 2016, arXiv:1508.07909 (BPE); bytes as its alphabet, so no text is unknown.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

MAX_CHARACTERS = 4096  # a 10 MB word kept the tokenizer busy for 49 s
PAD, END = "<pad>", "</s>"
_BYTES = 256
_REPLACED = {
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),  # lone surrogates
    0: " ",
}


def clean(caption: str) -> str:
    """The caption as tokenizers can take it: composed (NFC), one space between words, no lone
    surrogates and no NUL, at most 4,096 characters."""
    cut = caption[: 2 * MAX_CHARACTERS].translate(_REPLACED)  # spaces may shrink it later
    return " ".join(unicodedata.normalize("NFC", cut).split())[:MAX_CHARACTERS]


def train_tokenizer(captions: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE on `captions` and save it as `folder`/tokenizer.json.

    It ignores case and the shape of quotes. Few captions may give a smaller vocabulary.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    smallest = _BYTES + 2
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size {vocab_size} has no room for {_BYTES} bytes, {PAD} and {END}; "
            f"try {smallest} or more"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    straight = [
        normalizers.Replace(curly, plain) for curly, plain in zip("’‘“”", "''\"\"", strict=True)
    ]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *straight])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((clean(caption) for caption in captions), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


@dataclass(frozen=True)
class TextTokenizer:
    """Turns captions into rows of token ids that end with the end token."""

    vocab_size: int
    end_id: int
    pad_id: int
    token_ids: Callable[[list[str]], list[list[int]]]
    """Ids of cleaned captions with the tokenizer's own special tokens, of any length."""

    def encode(
        self, captions: Sequence[str], text_length: int
    ) -> tuple[Int32[np.ndarray, "b t"], Bool[np.ndarray, "b t"], int]:
        """Return text_tokens, text_mask (True = real token) and how many captions were cut.

        The empty caption is the end token alone, so that no mask is False throughout.
        """
        text_tokens = np.full((len(captions), text_length), self.pad_id, np.int32)
        text_mask = np.zeros((len(captions), text_length), bool)
        num_cut = 0
        for i, ids in enumerate(self.token_ids([clean(caption) for caption in captions])):
            row = ids if ids and ids[-1] == self.end_id else [*ids, self.end_id]
            if len(row) > text_length:
                num_cut += 1
                row = [*row[: text_length - 1], self.end_id]
            text_tokens[i, : len(row)] = row
            text_mask[i, : len(row)] = True
        return text_tokens, text_mask, num_cut


def open_tokenizer(folder: Path) -> TextTokenizer:
    """Open a folder with tokenizer.json, or any other folder that transformers can read.

    Raises:
        ValueError: when there is no tokenizer, or one that marks no end of text.
    """
    if not folder.is_dir():
        raise ValueError(f"no tokenizer folder at {folder}")
    if (folder / "tokenizer.json").is_file():
        return _open_fast(folder)
    return _open_other(folder)


def _open_fast(folder: Path) -> TextTokenizer:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{folder}/tokenizer.json cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a prompt that spells "</s>" means these letters
    names = {"pad_token": PAD, "eos_token": END} | _special_names(folder)
    end_id = tokenizer.token_to_id(names["eos_token"])
    pad_id = tokenizer.token_to_id(names["pad_token"])
    return _checked(
        folder,
        max(tokenizer.get_vocab().values()) + 1,
        end_id,
        pad_id,
        lambda captions: [encoding.ids for encoding in tokenizer.encode_batch(captions)],
    )


def _special_names(folder: Path) -> dict[str, str]:
    """The names of the end and pad tokens, where the folder's settings say them."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = {name: settings.get(name) for name in ("pad_token", "eos_token")}
    contents = {k: v["content"] if isinstance(v, dict) else v for k, v in found.items()}
    return {name: content for name, content in contents.items() if isinstance(content, str)}


def _open_other(folder: Path) -> TextTokenizer:
    import transformers  # takes seconds to import

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a foreign folder makes of it
        raise ValueError(f"{folder} is no tokenizer that transformers can read: {error}") from None

    def token_ids(captions: list[str]) -> list[list[int]]:
        return tokenizer(captions, split_special_tokens=True, verbose=False)["input_ids"]

    size = max(tokenizer.get_vocab().values()) + 1
    return _checked(folder, size, tokenizer.eos_token_id, tokenizer.pad_token_id, token_ids)


def _checked(
    folder: Path,
    vocab_size: int,
    end_id: int | None,
    pad_id: int | None,
    token_ids: Callable[[list[str]], list[list[int]]],
) -> TextTokenizer:
    if end_id is None:
        raise ValueError(
            f"the tokenizer in {folder} has no end token; name it as eos_token in "
            f"{folder}/tokenizer_config.json"
        )
    # Padding is told by the mask, never by the id: any valid id will do where there is no pad.
    return TextTokenizer(vocab_size, end_id, end_id if pad_id is None else pad_id, token_ids)
