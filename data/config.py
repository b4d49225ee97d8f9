"""Configuration of the data that train.py reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Token records, as `python -m data.encode` writes them."""

    records: str = "records/things"
    """Folder of token records: captions and pictures as tokens, their tokenizer and their VQGAN."""
