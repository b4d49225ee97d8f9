"""Writes a tiny CLIP with a tokenizer, for ranking."""

import shutil
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, processors

TINY = Path(__file__).parent.parent / "reference" / "clip_torch" / "clip_tiny"
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, size: int = 60, frame: str = f"{START} $A {END}") -> None:
    """Write a tokenizer of one-letter words, between CLIP's start token (the first id) and its end
    token (the last)."""
    letters = [chr(ord("a") + i) for i in range(26)] + [chr(0x100 + i) for i in range(size - 29)]
    vocab = {word: i for i, word in enumerate([START, *letters, "?", END])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = [(word, vocab[word]) for word in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_clip(folder: Path) -> Path:
    """Write a CLIP folder with the reference's weights and that tokenizer."""
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    write_tokenizer(folder)
    return folder
