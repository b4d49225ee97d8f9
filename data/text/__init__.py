"""Captions: normaliser, tokenizers, words that a model knows."""
