"""Makes every known layout of captioned pictures, each with 20 pictures."""

import csv
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.data.samples import picture, write_tar

N = 20
Make = Callable[[Path], None]


def put(path: Path, content: str | bytes) -> None:
    """Write a file, and make the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def pictures(folder: Path, start: int = 0) -> None:
    """Write 00.jpg to 19.jpg."""
    for i in range(N):
        put(folder / f"{i:02d}.jpg", picture(start + i, kind="JPEG"))


def beside(ending: str, caption: Callable[[int], str] = "bird {}".format) -> Make:
    """A maker of pictures, each with a caption file with this ending."""

    def make(folder: Path) -> None:
        pictures(folder)
        for i in range(N):
            put(folder / f"{i:02d}{ending}", caption(i))

    return make


def table(name: str, columns: str, row: str, folder: str = "", times: int = 1) -> Make:
    """A maker of pictures and a text table. {i} is the picture's number and {k} the caption's."""

    def make(top: Path) -> None:
        pictures(top / folder)
        rows = "".join(row.format(i=f"{i:02d}", k=k) for i in range(N) for k in range(times))
        put(top / name, columns + rows)

    return make


def hf_splits(folder: Path) -> None:
    for split in ("train", "validation"):
        with io.StringIO() as text:
            rows = csv.writer(text)
            rows.writerow(["file_name", "text"])
            for i in range(N // 2):
                name = f"{split[0]}{i}.jpg"
                put(folder / split / name, picture(i + (split == "train") * N, kind="JPEG"))
                rows.writerow([name, f"a {split}, {i}"])
            put(folder / split / "metadata.csv", text.getvalue())


def coco(folder: Path) -> None:
    pictures(folder / "train2017")
    images = [{"id": i, "file_name": f"{i:02d}.jpg"} for i in range(N)]
    annotations = [{"id": i, "image_id": i, "caption": f"bird {i}"} for i in range(N)]
    content = json.dumps({"info": {}, "images": images, "annotations": annotations})
    put(folder / "annotations" / "captions_train2017.json", content)


def karpathy(folder: Path) -> None:
    pictures(folder / "images")
    images = [
        {
            "filename": f"{i:02d}.jpg",
            "split": ("train", "restval", "val", "test")[i % 4],
            "sentences": [{"raw": f"bird {i}", "tokens": ["bird"]}, {"raw": f"a bird, {i}"}],
        }
        for i in range(N)
    ]
    put(folder / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))


def apart(folder: Path) -> None:
    pictures(folder / "images")
    for i in range(N):
        put(folder / "captions" / f"{i:02d}.txt", f"bird {i}")


def each(folder: Path) -> None:
    for i in range(N):
        put(folder / f"{i // 4:02d}" / f"{i:02d}.jpg", picture(i, kind="JPEG"))
        put(folder / f"{i // 4:02d}" / "caption.txt", f"bird {i // 4}")


def classes(folder: Path) -> None:
    for i in range(N):
        put(folder / ("black_bird", "dog")[i % 2] / f"{i:02d}.jpg", picture(i, kind="JPEG"))


def names(folder: Path) -> None:
    for i in range(N):
        put(folder / f"Brown_Fish-{i:02d}.PNG", picture(i))


def inside(folder: Path) -> None:
    for i in range(N):
        exif = Image.Exif()
        exif[0x010E] = f"a bird {i}"
        file = io.BytesIO()
        Image.open(io.BytesIO(picture(i))).convert("RGB").save(file, "JPEG", exif=exif)
        put(folder / f"IMG_{i:04d}.jpg", file.getvalue())


def webdataset(folder: Path) -> None:
    members: dict[str, bytes] = {}
    for i in range(N):
        members |= {
            f"{i:09d}.jpg": picture(i, kind="JPEG"),
            f"{i:09d}.txt": f"bird {i}".encode(),
            f"{i:09d}.json": json.dumps({"caption": f"bird {i}", "url": "u"}).encode(),
        }
    write_tar(folder / "00000.tar", members)
    put(folder / "00000_stats.json", "{}")


def joined_tars(folder: Path) -> None:
    for half in range(2):
        numbers = range(half * N // 2, (half + 1) * N // 2)
        members = {f"bird 2.{i - half * N // 2}m.jpg": picture(i, kind="JPEG") for i in numbers}
        members |= {name[:-3] + "txt": b"a bird" for name in members}
        write_tar(folder / "half", dict(sorted(members.items())))
        with (folder / "all.tar").open("ab") as file:
            file.write((folder / "half").read_bytes())
    (folder / "half").unlink()


def i2d_files(folder: Path) -> None:
    beside(".txt")(folder / "00000")
    for i in range(N):
        about = {"caption": f"bird {i}", "url": "u", "key": f"{i:09d}", "status": "success"}
        put(folder / "00000" / f"{i:02d}.json", json.dumps(about))
    write_parquet(folder / "00000.parquet", {"url": ["u"] * N, "caption": ["bird"] * N})
    put(folder / "00000_stats.json", "{}")


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def i2d_parquet(folder: Path) -> None:
    data = [picture(i, kind="JPEG") for i in range(N)]
    write_parquet(folder / "00000.parquet", {"caption": ["bird"] * N, "jpg": data})


def _field(number: int, content: bytes) -> bytes:
    size, head = len(content), bytes([number << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + content


def i2d_tfrecord(folder: Path) -> None:
    records = b""
    for i in range(N):
        entries = b""
        for key, value in (("jpg", picture(i, kind="JPEG")), ("caption", f"bird {i}".encode())):
            feature = _field(1, _field(1, value))
            entries += _field(1, _field(1, key.encode()) + _field(2, feature))
        record = _field(1, entries)
        records += struct.pack("<QI", len(record), 0) + record + bytes(4)
    put(folder / "00000.tfrecord", records)


def hf_parquet(folder: Path) -> None:
    rows = [{"bytes": picture(i, kind="JPEG"), "path": f"{i}.jpg"} for i in range(N)]
    (folder / "data").mkdir()
    for split, part in (("train", rows[:15]), ("test", rows[15:])):
        columns: dict[str, list[Any]] = {"image": part, "text": ["bird"] * len(part)}
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", columns)


def parquet_of_paths(folder: Path) -> None:
    pictures(folder / "files")
    names = [f"files/{i:02d}.jpg" for i in range(N)]
    write_parquet(folder / "all.parquet", {"path": names, "prompt": ["bird"] * N})


def saved(folder: Path) -> None:
    table = hf_table()
    table.with_format("numpy").save_to_disk(str(folder))


def saved_splits(folder: Path) -> None:
    import datasets

    whole = hf_table()
    parts = {"train": whole.select(range(15)), "val": whole.select(range(15, N))}
    datasets.DatasetDict(parts).save_to_disk(str(folder))


def hf_table() -> Any:
    """A data set for `datasets` with captions in the columns caption_0 and caption_1."""
    import datasets

    rows = {
        "image": [{"bytes": picture(i), "path": None} for i in range(N)],
        "caption_0": [f"bird {i}" for i in range(N)],
        "caption_1": [f"a bird, {i}" for i in range(N)],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "birds.zip", "w") as file:
        for i in range(N):
            file.writestr(f"birds/{i}.jpg", picture(i, kind="JPEG"))
            file.writestr(f"birds/{i}.txt", f"bird {i}")


LAYOUTS: dict[str, tuple[str, Make, tuple[str, ...], int]] = {
    "txt": ("`.txt` of the same name, one caption a line", beside(".txt"), (), N),
    "caption": ("kohya's `.caption`", beside(".caption"), (), N),
    "json": (
        "`.json` of the same name, captions under any known name",
        beside(".json", lambda i: json.dumps({"prompt": f"bird {i}"})),
        (),
        N,
    ),
    "doubled": ("`1.jpg.txt`", beside(".jpg.txt"), (), N),
    "apart": ("`images/` beside `captions/`", apart, (), N),
    "each": ("folders with one `caption.txt` each, for all pictures in it", each, (), N),
    "lines": (
        "a text with lines such as `1.jpg: a bird`",
        table("list.txt", "", "{i}.jpg: bird {i}\n"),
        (),
        N,
    ),
    "hf_csv": (
        "Hugging Face's imagefolder, `metadata.csv`",
        table("metadata.csv", "file_name,text\n", "{i}.jpg,bird {i}\n"),
        (),
        N,
    ),
    "hf_jsonl": (
        "the same, `metadata.jsonl`",
        table("metadata.jsonl", "", '{{"file_name": "{i}.jpg", "text": "bird {i}"}}\n'),
        (),
        N,
    ),
    "hf_splits": ("the same in `train/` and `validation/`", hf_splits, (), N),
    "coco": ("COCO's `captions_train2017.json`", coco, (), N),
    "karpathy": ("Karpathy's `dataset_coco.json`", karpathy, (), 2 * N),
    "flickr8k": (
        "Flickr8k's `captions.txt`",
        table("captions.txt", "image,caption\n", "{i}.jpg,bird {i}.{k} .\n", "Images", 5),
        (),
        5 * N,
    ),
    "flickr8k_token": (
        "Flickr8k's `Flickr8k.token.txt`",
        table("Flickr8k.token.txt", "", "{i}.jpg#{k}\tbird {i}, {k}\n", "Images", 5),
        (),
        5 * N,
    ),
    "flickr30k": (
        "Flickr30k's `results.csv`",
        table(
            "results.csv",
            "image_name| comment_number| comment\n",
            '{i}.jpg| {k}| a "bird" {i}.{k}\n',
            "images",
            5,
        ),
        (),
        5 * N,
    ),
    "csv": (
        "a csv, tsv or jsonl of paths",
        table("list.csv", "filepath,title\n", "data/{i}.jpg,bird {i}\n", "data"),
        (),
        N,
    ),
    "other_column": (
        "the same, captions in a column of your own",
        table("list.tsv", "img\tsource\twords\n", "{i}.jpg\tx y\tbird {i}\n"),
        ("--caption_column=words",),
        N,
    ),
    "parquet_of_paths": ("a parquet of paths", parquet_of_paths, (), N),
    "hf_parquet": ("Hugging Face's parquet shards", hf_parquet, (), N),
    "saved": ("`datasets.save_to_disk`, with any format set on it", saved, (), 2 * N),
    "saved_splits": ("a saved DatasetDict", saved_splits, (), 2 * N),
    "i2d_webdataset": ("img2dataset's webdataset", webdataset, (), N),
    "i2d_files": ("img2dataset's files", i2d_files, (), N),
    "i2d_parquet": ("img2dataset's parquet", i2d_parquet, (), N),
    "i2d_tfrecord": ("img2dataset's tfrecord", i2d_tfrecord, (), N),
    "joined_tars": ("joined tars, dots in names", joined_tars, (), N),
    "zip": ("a zip", zipped, (), N),
    "classes": ("folders named by class", classes, (), N),
    "classes_template": (
        "the same, in your words",
        classes,
        ("--kind=classes", "--caption_template=one {}, drawn"),
        N,
    ),
    "names": ("captions in the names of the files", names, ("--captions=names",), N),
    "inside": ("captions inside the files", inside, ("--captions=inside",), N),
}
"""Name → (description, maker, flags that reading it needs, number of captions)."""
