"""Captions → rows of text tokens of one length: cleaning, a byte-level BPE, other tokenizers.

Our tokenizers encode a caption as "caption </s>", BART's and DALL·E mini's as "<s> caption </s>".
Without a caption only these special tokens are left: guidance leads away from that prompt.

BPE: Sennrich et al. 2016, arXiv:1508.07909. Its alphabet is bytes, so no text is unknown.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from common.files import write_text
from common.json_files import read_json
from data.text.normalise import MAX_CHARACTERS
from data.text.tokenizer_files import as_text, read_tree

PAD, END = "<pad>", "</s>"
_START = "<s>"
_USUAL = {
    "eos_token": (END, "[SEP]", "<|endoftext|>", "<eos>", "[EOS]"),
    "pad_token": (PAD, "[PAD]"),
}
"""Common names of special tokens, for folders whose tokenizer_config.json names none."""
_BYTES = 256
MOST_TOKENS = 1 << 20
"""Most tokens of a vocabulary that is trained here; the largest published ones have 262,144."""
_REPLACED = {
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),  # lone surrogates
    0: " ",
}


def clean(caption: str) -> str:
    """The caption in a form that tokenizers accept: NFC, one space between words, without lone
    surrogates and NUL, at most 4,096 characters."""
    cut = caption[: 2 * MAX_CHARACTERS].translate(_REPLACED)  # spaces may shrink it later
    return " ".join(unicodedata.normalize("NFC", cut).split())[:MAX_CHARACTERS]


def check_vocab_size(vocab_size: int) -> None:
    """Raise ValueError if no tokenizer with so few tokens can be trained."""
    smallest = _BYTES + 2
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size {vocab_size} has no room for {_BYTES} bytes, {PAD} and {END}; "
            f"try {smallest} or more"
        )
    if vocab_size > MOST_TOKENS:  # the trainer takes memory for all of them
        raise ValueError(f"vocab_size {vocab_size:,} is more than {MOST_TOKENS:,}, the limit")


def train_tokenizer(captions: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE on `captions` and save it as `folder`/tokenizer.json.

    It ignores case, and normalises quotes. Few captions may give a smaller vocabulary.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    check_vocab_size(vocab_size)
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
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))


@dataclass(frozen=True)
class TextTokenizer:
    """Encodes captions as rows of token ids that end with the end token."""

    vocab_size: int
    end_id: int
    pad_id: int
    token_ids: Callable[[list[str]], list[list[int]]]
    """Prepared captions → token ids with special tokens, of any length."""
    prepare: Callable[[str], str] = clean
    """Caption → caption that the tokenizer accepts; applied first."""

    def encode(
        self, captions: Sequence[str], text_length: int
    ) -> tuple[Int32[np.ndarray, "b t"], Bool[np.ndarray, "b t"], int]:
        """(text_tokens, text_mask, number of truncated captions); the mask is True for real tokens.

        The empty caption is the end token (after the start token, if there is one), so each row of
        the mask has a True.
        """
        text_tokens = np.full((len(captions), text_length), self.pad_id, np.int32)
        text_mask = np.zeros((len(captions), text_length), bool)
        num_cut = 0
        for i, ids in enumerate(self.token_ids([self.prepare(caption) for caption in captions])):
            row = ids if ids and ids[-1] == self.end_id else [*ids, self.end_id]
            if len(row) > text_length:
                num_cut += 1
                row = [*row[: text_length - 1], self.end_id]
            text_tokens[i, : len(row)] = row
            text_mask[i, : len(row)] = True
        return text_tokens, text_mask, num_cut


def open_tokenizer(path: Path, normalize: Callable[[str], str] | None = None) -> TextTokenizer:
    """The tokenizer of a tokenizer.json, of a folder with one, or of the older files
    (data/text/tokenizer_files.py). Nothing in them is executed.

    With `normalize`, captions go through it instead of `clean`. A blank caption stays empty: it is
    the unconditional prompt.

    Raises:
        ValueError: there is no tokenizer, it is damaged, or it has no end token.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file() or path.is_dir():
        tokenizer = _open_fast(file if file.is_file() else path)
    else:
        raise ValueError(f"no tokenizer folder at {path}, nor a tokenizer.json")
    if normalize is None:
        return tokenizer
    return replace(tokenizer, prepare=lambda text: normalize(text) if clean(text) else "")


def _open_fast(file: Path) -> TextTokenizer:
    tokenizer = _read_fast(file)
    settings = (file if file.is_dir() else file.parent) / "tokenizer_config.json"
    end_id, pad_id = (
        _special_id(tokenizer.token_to_id, settings, role) for role in ("eos_token", "pad_token")
    )
    if end_id is None:
        raise _no_end(file, settings)

    def token_ids(captions: list[str]) -> list[list[int]]:
        with _blaming(f"{file} cannot encode a caption"):
            return [encoding.ids for encoding in tokenizer.encode_batch(captions)]

    size = max(tokenizer.get_vocab().values()) + 1
    (frame,) = token_ids([""])
    if (largest := max([size - 1, *frame])) >= min(size, 2**31):
        raise ValueError(f"{file}: token {largest} is not one of its {size} tokens (2³¹ at most)")
    start_id = tokenizer.token_to_id(_START)
    is_bart = start_id is not None and end_id == tokenizer.token_to_id(END)
    framed_ids = _started(token_ids, start_id) if is_bart and not frame else token_ids
    # The mask marks padding, never the id. Without a pad token any valid id will do.
    return TextTokenizer(size, end_id, end_id if pad_id is None else pad_id, framed_ids)


def _read_fast(path: Path) -> Any:
    import tokenizers

    tree = read_tree(path)
    with _blaming(f"{path} cannot be read"):
        tokenizer = tokenizers.Tokenizer.from_str(as_text(tree))
    tokenizer.encode_special_tokens = True  # a prompt that spells "</s>" means these letters
    return tokenizer


def _started(
    bare_ids: Callable[[list[str]], list[list[int]]], start_id: int
) -> Callable[[list[str]], list[list[int]]]:
    """`token_ids` with BART's special tokens added, for files without a post-processor."""
    return lambda captions: [[start_id, *ids] for ids in bare_ids(captions)]


def _special_id(id_of: Callable[[str], int | None], settings: Path, role: str) -> int | None:
    """The id of the special token that the settings name for this role, or that has a common
    name."""
    named = _special_name(settings, role)
    ids = [id_of(name) for name in (_USUAL[role] if named is None else (named,))]
    return next((i for i in ids if i is not None), None)


def _special_name(settings: Path, role: str) -> str | None:
    if not settings.is_file():
        return None
    value = read_json(settings).get(role)
    name = value.get("content") if isinstance(value, dict) else value
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{settings}: {role} is {value!r:.80}; expected a token's text")
    return name


def _no_end(path: Path, settings: Path) -> ValueError:
    return ValueError(
        f"the tokenizer in {path} has no end token; name it as eos_token in {settings}"
    )


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """A context that turns a library's error about an untrusted file into a ValueError of one
    line."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{what}: {reason or type(error).__name__}") from None
