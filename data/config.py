"""Configuration of the data that train.py reads."""

from dataclasses import dataclass, field

from common.settings import check_least


@dataclass(frozen=True)
class DataConfig:
    """Token records, as `python -m data.encode` writes them."""

    records: str = "records/things"
    """Folder of token records: captions and pictures as tokens, their tokenizer and their VQGAN.
    Several: "[a:3,b:1]" trains on three examples of a for each one of b; "[a,b]" on all of both
    equally often."""
    validation: str = ""
    """A second folder of token records, whose loss is evaluated beside the held-out splits; none of
    its examples is trained on."""
    filter: tuple[str, ...] = field(default=(), metadata={"nargs": "*"})
    """Rules that training examples must meet, in quotes, as data.filter takes them:
    'similarity>=0.28' 'words>=3'. Held-out examples stay. The number of examples that each rule
    removed is printed and written to RUN/filter.txt."""
    window: int = 0
    """Rows of a window: records are read a few windows at a time, in a new order every epoch. For
    records on an object store or a slow disk, such as 10000. 0 = the order is over all rows."""

    def __post_init__(self) -> None:
        check_least(self, "data", 0, "window")
