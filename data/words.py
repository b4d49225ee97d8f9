"""Words of captions, and which of a prompt's no training caption has."""

import re
from collections.abc import Iterable, Sequence

from data.records import Records
from data.text import clean

MAX_CAPTIONS = 300_000
"""Captions of larger records are not read for their words: that would take seconds."""
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in their order, in small letters."""
    return WORD.findall(clean(text).lower().replace("’", "'").replace("‘", "'"))


def training_words(records: Records) -> set[str] | None:
    """All words of the training captions as the model read them; None where they are too many, or
    where their tokenizer is no tokenizer.json."""
    import tokenizers

    file = records.tokenizer_folder / "tokenizer.json"
    if len(records.text_tokens) > MAX_CAPTIONS or not file.is_file():
        return None
    offsets = records.caption_offsets
    lengths = records.text_lengths.tolist()
    captions = [i for row in records.rows("train") for i in range(offsets[row], offsets[row + 1])]
    rows = [records.text_tokens[i, : lengths[i]].tolist() for i in captions]
    texts = tokenizers.Tokenizer.from_file(str(file)).decode_batch(rows)
    return {word for text in set(texts) for word in words_of(text)}


def unknown_words(prompts: Iterable[str], known: set[str]) -> list[str]:
    """Words of the prompts that are not known, each once, in their order."""
    words = (word for prompt in prompts for word in words_of(prompt))
    return [word for word in dict.fromkeys(words) if word not in known]


def tell_unknown(words: Sequence[str], most: int = 20) -> str:
    """Such as "no training caption has these words: zebra, xylophone"."""
    shown = ", ".join(words[:most]) + (f" and {len(words) - most} more" if words[most:] else "")
    one = "this word" if len(words) == 1 else "these words"
    return f"no training caption has {one}: {shown}"
