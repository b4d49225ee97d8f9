"""The same examples to device batches, by Pastel's records, by webdataset and by datasets: captions
tokenised before, or on the way by the same tokenizer. Rates are examples a second of CPU time."""

import functools
import io
import itertools
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import open_batches
from data.records import Records
from data.text import TextTokenizer, open_tokenizer, train_tokenizer
from split_names import TRAIN

BUFFER = 1000
Epoch = Callable[[], Iterator[dict[str, Any]]]
Tokenise = Callable[[Sequence[str]], dict[str, np.ndarray]]


def measure_readers(
    records: Records, folder: Path, size: int, seconds: float
) -> dict[str, dict[str, float]]:
    """The rate of each reader, by "tokenised before" and "tokenised on the way"."""
    tokenizer = _tokenizer(records, folder / "words")

    def tokenise(captions: Sequence[str]) -> dict[str, np.ndarray]:
        tokens, mask, _ = tokenizer.encode(captions, records.text_length)
        return {"text_tokens": tokens, "text_mask": mask}

    readers = {"Pastel": open_pastel, "webdataset": open_webdataset, "datasets": open_datasets}
    found: dict[str, dict[str, float]] = {}
    for how, given in (("tokenised before", None), ("tokenised on the way", tokenise)):
        place = folder / how.replace(" ", "_")
        place.mkdir()
        found[how] = {
            name: rate(opener(records, place, size, given), seconds)
            for name, opener in readers.items()
        }
    return found


def rate(epoch: Epoch, seconds: float) -> float:
    """Examples a second of CPU time until they are on the device, out of as many epochs as it
    takes."""
    import jax

    stream = itertools.chain.from_iterable(epoch() for _ in itertools.count())
    jax.block_until_ready(jax.device_put(next(stream)))
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        batch = next(stream)
        jax.block_until_ready(jax.device_put(batch))
        count += len(batch["image_tokens"])
    return count / (time.process_time() - start)


def _tokenizer(records: Records, folder: Path) -> TextTokenizer:
    train_tokenizer((one["caption"] for one in records.examples[:1000]), 300, folder)
    return open_tokenizer(folder)


def open_pastel(records: Records, folder: Path, size: int, tokenise: Tokenise | None) -> Epoch:
    """Batches in training's order; on the way, captions are read as text for each."""
    batches = open_batches(records, TRAIN, size, seed=0)

    def epoch() -> Iterator[dict[str, Any]]:
        for step in range(len(records) // size):
            if tokenise is None:
                yield batches.at(step)
            else:
                rows = batches.examples(np.arange(step * size, (step + 1) * size))
                captions = [records.examples[row]["caption"] for row in rows]
                yield {"image_tokens": records.image_tokens[rows], **tokenise(captions)}

    return epoch


def open_webdataset(records: Records, folder: Path, size: int, tokenise: Tokenise | None) -> Epoch:
    """A tar with a .npy for each kind of tokens, or with captions as .txt, read by webdataset."""
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
        text = {"caption": sample["txt"].decode()} if tokenise else {}
        return {**text, **{name: load(io.BytesIO(sample[f"{name}.npy"])) for name in arrays}}

    def together(samples: list[dict[str, Any]]) -> dict[str, Any]:
        found = {name: np.stack([one[name] for one in samples]) for name in arrays}
        return found | (tokenise([one["caption"] for one in samples]) if tokenise else {})

    def epoch() -> Iterator[dict[str, Any]]:
        opened = webdataset.WebDataset(str(folder / "same.tar"), shardshuffle=False)
        shuffled = opened.shuffle(BUFFER).map(parse)
        return iter(shuffled.batched(size, collation_fn=together, partial=False))

    return epoch


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def open_datasets(records: Records, folder: Path, size: int, tokenise: Tokenise | None) -> Epoch:
    """A saved data set of Hugging Face's `datasets`, streamed."""
    import datasets

    columns: dict[str, Any] = {"image_tokens": np.asarray(records.image_tokens)}
    if tokenise:
        columns["caption"] = [one["caption"] for one in records.examples]
    else:
        columns["text_tokens"] = np.asarray(records.text_tokens)
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "same.arrow")
    saved = datasets.load_from_disk(folder / "same.arrow").with_format("numpy")

    def epoch() -> Iterator[dict[str, Any]]:
        stream = saved.to_iterable_dataset().shuffle(seed=0, buffer_size=BUFFER)
        for batch in stream.iter(size, drop_last_batch=True):
            captions = batch.pop("caption", None)
            yield batch if tokenise is None else batch | tokenise([str(one) for one in captions])

    return epoch
