"""Compares Pastel's records with webdataset and datasets: the same examples, read into batches.
Captions are tokenised before, or while reading by one tokenizer. Each library is used as its pages
recommend: webdataset maps samples, datasets maps batches. Rates are examples per second of CPU
time.
"""

import functools
import io
import itertools
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.split_names import TRAIN
from data.batches import open_batches
from data.records import Records
from data.text.tokens import TextTokenizer, open_tokenizer, train_tokenizer

BUFFER = 1000
Batch = dict[str, Any]
Epoch = Callable[[], Iterator[Batch]]
Tokenise = Callable[[Sequence[str]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Rates:
    """Examples per second of CPU time."""

    batch: float
    """From storage to NumPy arrays."""
    device: float
    """From storage to arrays on the device."""


def measure_readers(
    records: Records, folder: Path, size: int, seconds: float
) -> dict[str, dict[str, Rates]]:
    """The rates of each reader, under "tokenised before" and "tokenised on the way"."""
    tokenizer = _tokenizer(records, folder / "words")

    def tokenise(captions: Sequence[str]) -> dict[str, np.ndarray]:
        tokens, mask, _ = tokenizer.encode(captions, records.text_length)
        return {"text_tokens": tokens, "text_mask": mask}

    readers = {"Pastel": open_pastel, "webdataset": open_webdataset, "datasets": open_datasets}
    rates_by_order: dict[str, dict[str, Rates]] = {}
    for how, given in (("tokenised before", None), ("tokenised on the way", tokenise)):
        place = folder / how.replace(" ", "_")
        place.mkdir()
        epochs = {name: opener(records, place, size, given) for name, opener in readers.items()}
        rates_by_order[how] = {
            name: Rates(rate(epoch, seconds), rate(epoch, seconds, to_device))
            for name, epoch in epochs.items()
        }
    return rates_by_order


def to_device(batch: Batch) -> None:
    """Copy a batch to the device, and wait until it is there."""
    import jax

    jax.block_until_ready(jax.device_put(batch))


def rate(epoch: Epoch, seconds: float, then: Callable[[Batch], None] = lambda batch: None) -> float:
    """Examples per second of CPU time, over as many epochs as fill `seconds`. Calls of `then` are
    included."""
    stream = itertools.chain.from_iterable(epoch() for _ in itertools.count())
    then(next(stream))
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        batch = next(stream)
        then(batch)
        count += len(batch["image_tokens"])
    return count / (time.process_time() - start)


def _tokenizer(records: Records, folder: Path) -> TextTokenizer:
    train_tokenizer((example["caption"] for example in records.examples[:1000]), 300, folder)
    return open_tokenizer(folder)


def open_pastel(records: Records, folder: Path, size: int, tokenise: Tokenise | None) -> Epoch:
    """Batches in training's order. With `tokenise`, captions are read as text and tokenised."""
    batches = open_batches(records, TRAIN, size, seed=0)

    def epoch() -> Iterator[Batch]:
        for step in range(len(records) // size):
            if tokenise is None:
                yield batches.at(step)
            else:
                rows = batches.examples(np.arange(step * size, (step + 1) * size))
                captions = [records.examples[row]["caption"] for row in rows]
                yield {"image_tokens": records.image_tokens[rows], **tokenise(captions)}

    return epoch


def open_webdataset(records: Records, folder: Path, size: int, tokenise: Tokenise | None) -> Epoch:
    """Batches by webdataset, from a tar with a .npy for each kind of tokens; with `tokenise`,
    captions are .txt."""
    import webdataset

    arrays = ["image_tokens", *([] if tokenise else ["text_tokens"])]
    with tarfile.open(folder / "same.tar", "w") as tar:
        for number in range(len(records)):
            for name in arrays:
                file = io.BytesIO()
                np.save(file, np.asarray(getattr(records, name)[number]))
                _add(tar, f"{number:09}.{name}.npy", file.getvalue())
            if tokenise:
                _add(tar, f"{number:09}.txt", records.examples[number]["caption"].encode())

    def parse(sample: dict[str, Any]) -> dict[str, Any]:
        load = functools.partial(np.load, allow_pickle=False)
        words = tokenise([sample["txt"].decode()]) if tokenise else {}
        text = {name: rows[0] for name, rows in words.items()}
        return text | {name: load(io.BytesIO(sample[f"{name}.npy"])) for name in arrays}

    def together(samples: list[dict[str, object]]) -> dict[str, Any]:
        names = [name for name in samples[0] if not name.startswith("__")]
        return {name: np.stack([sample[name] for sample in samples]) for name in names}

    def epoch() -> Iterator[Batch]:
        opened = webdataset.WebDataset(str(folder / "same.tar"), shardshuffle=False)
        shuffled = opened.shuffle(BUFFER).map(parse)
        return iter(shuffled.batched(size, collation_fn=together, partial=False))

    return epoch


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def open_datasets(records: Records, folder: Path, size: int, tokenise: Tokenise | None) -> Epoch:
    """Batches streamed by Hugging Face's `datasets` from a saved data set."""
    import datasets

    columns: dict[str, Any] = {"image_tokens": np.asarray(records.image_tokens)}
    if tokenise:
        columns["caption"] = [example["caption"] for example in records.examples]
    else:
        columns["text_tokens"] = np.asarray(records.text_tokens)
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "same.arrow")
    saved = datasets.load_from_disk(folder / "same.arrow").with_format("numpy")

    def words(batch: dict[str, Any]) -> dict[str, np.ndarray]:
        assert tokenise is not None
        return tokenise([str(caption) for caption in batch["caption"]])

    def epoch() -> Iterator[Batch]:
        stream = saved.to_iterable_dataset()
        if tokenise:
            stream = stream.map(words, batched=True, batch_size=size, remove_columns=["caption"])
        shuffled = stream.shuffle(seed=0, buffer_size=BUFFER)
        return iter(shuffled.iter(size, drop_last_batch=True))

    return epoch
