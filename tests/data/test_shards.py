"""Encoding in shards: the records have the same bytes, however often encoding is interrupted and
whichever process makes which shard. No picture of a finished shard is encoded again."""

import contextlib
import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import files
from data import encode
from data.encoding.config import EncodeConfig, reading_of
from data.encoding.progress import Progress
from data.encoding.shards import ShardFolder
from data.encoding.tokenise import PictureEncoder, PictureOptions, encode_shards
from data.records import open_records
from data.sources import open_source
from tests.data.samples import picture
from tests.tiny import TINY_VQGAN
from vqgan import autoencoder, pretrained
from vqgan.encoder import open_encoder

MakeFolder = Callable[..., Path]
COUNT, SIZE = 75, 8


class Counting:
    """An encoder that counts pictures, and raises after a given number."""

    def __init__(self, encoder: PictureEncoder) -> None:
        self.seen: list[bytes] = []
        self.left = 10**9
        self.encoder = replace(encoder, encode=self._encode, batch_size=1)
        self._of = encoder

    def _encode(self, pixels: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.seen.append(pixels.tobytes())
        return self._of.encode(pixels)


@pytest.fixture
def counting(encoder: PictureEncoder) -> Counting:
    return Counting(encoder)


@pytest.fixture
def source(make_folder: MakeFolder) -> Path:
    """A folder of pictures. Some are unreadable; some have several or odd captions."""
    folder = make_folder(COUNT)
    (folder / "013.png").write_bytes(b"broken")
    (folder / "014.txt").write_text("one\ntwo\n\nthree")
    (folder / "057.txt").write_text(" ")
    (folder / "060.json").write_text('{"captions": ["a", "b"], "weights": [3, 1]}')
    (folder / "074.txt").write_bytes("größer".encode("utf-16"))
    return folder


@pytest.fixture
def run(
    tmp_path: Path, source: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    (tmp_path / "vqgan").mkdir()
    (tmp_path / "vqgan" / "config.json").write_text("{}")
    monkeypatch.setattr(encode, "open_encoder", lambda folder, tried_codes: counting.encoder)

    def call(out: str, **changed: Any) -> Path:
        encode.main(config(tmp_path, source, out, **changed))
        return tmp_path / out

    return call


def config(tmp_path: Path, source: Path, out: str, **changed: Any) -> EncodeConfig:
    settings: dict[str, Any] = {
        "source": (str(source),),
        "out": str(tmp_path / out),
        "vqgan": str(tmp_path / "vqgan"),
        "vocab_size": 300,
        "text_length": 12,
        "shard_size": SIZE,
    }
    return EncodeConfig(**settings | changed)


def content(folder: Path) -> dict[str, bytes]:
    """Name → bytes of all files in a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_records_do_not_depend_on_the_size_of_the_shards(run: Callable[..., Path]) -> None:
    one = content(run("one", shard_size=10_000))
    assert one == content(run("many")) == content(run("single", shard_size=1))
    assert json.loads(one["records.json"])["num_skipped"] == 2
    assert len(one["bad_samples.jsonl"].splitlines()) == 2


def test_broken_off_at_any_moment_it_continues_and_no_finished_shard_is_made_twice(
    run: Callable[..., Path], counting: Counting, tmp_path: Path
) -> None:
    expected = content(run("straight"))
    pictures, random = len(counting.seen), np.random.default_rng(0)
    for attempt in range(3):
        counting.seen.clear()
        stops = 0
        while not (tmp_path / f"again{attempt}").exists():
            counting.left = int(random.integers(1, 3 * SIZE))
            with contextlib.suppress(KeyboardInterrupt):
                run(f"again{attempt}")
                break
            stops += 1
        assert content(tmp_path / f"again{attempt}") == expected
        assert pictures <= len(counting.seen) < pictures + stops * SIZE
        assert len(set(counting.seen)) == pictures
        assert not (tmp_path / f"again{attempt}.parts").exists()


def test_shards_of_several_processes_join_to_the_same_records(
    run: Callable[..., Path], counting: Counting, source: Path, tmp_path: Path
) -> None:
    expected = content(run("straight"))
    for count in (2, 3):
        counting.left = 0
        with pytest.raises(KeyboardInterrupt):  # there is a plan but no shard
            run(f"by{count}")
        counting.left = 10**9
        settings = config(tmp_path, source, "")
        options = PictureOptions(settings.held_out, reading_of(settings))
        for number in range(count):
            shards = ShardFolder(tmp_path / f"by{count}.parts", COUNT, SIZE)
            encode_shards(
                open_source(source),
                counting.encoder,
                options,
                shards,
                range(number, shards.count, count),
                Progress("", COUNT, is_shown=False),
            )
        counting.left = 0
        assert content(run(f"by{count}")) == expected


@pytest.mark.parametrize("how", ["cut off", "changed"])
def test_a_damaged_shard_is_made_anew(
    how: str, run: Callable[..., Path], counting: Counting, tmp_path: Path
) -> None:
    expected = content(run("straight"))
    counting.left = 20
    with pytest.raises(KeyboardInterrupt):
        run("again")
    shard = tmp_path / "again.parts" / "000000.shard"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] if how == "cut off" else whole[:-3] + b"xyz")
    counting.left = 10**9
    if how == "changed":
        with pytest.raises(ValueError, match=r"000000\.shard was damaged and is removed; the same"):
            run("again")
    assert content(run("again")) == expected


def test_shards_of_something_else_are_not_mixed_in(
    run: Callable[..., Path], counting: Counting, source: Path
) -> None:
    counting.left = 20
    with pytest.raises(KeyboardInterrupt):
        run("again")
    counting.left = 10**9
    message = r"again\.parts holds 16 pictures of an encoding that was broken off, and since then "
    with pytest.raises(ValueError, match=message + r"held_out \(was 0\.05, now 0\.2\) changed"):
        run("again", held_out=0.2)
    (source / "000.txt").write_text("other words")
    with pytest.raises(ValueError, match=message + "the source's files changed"):
        run("again")
    (source / "000.txt").write_text("noise number 0")
    run("again", text_length=9)  # affects captions only, whose tokens are not in the shards


def test_a_second_command_into_the_same_folder_is_refused(
    run: Callable[..., Path], counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_now = counting.encoder.encode

    def meanwhile(pixels: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(encode, "open_encoder", lambda folder, tried_codes: counting.encoder)
        with pytest.raises(ValueError, match=r"--out in .*x\.parts is in use by another process"):
            run("x")
        return encode_now(pixels)

    other = replace(counting.encoder, encode=meanwhile)
    monkeypatch.setattr(encode, "open_encoder", lambda folder, tried_codes: other)
    run("x", shard_size=COUNT)


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(run("straight"))
    sync, left = files._sync, [8]

    def full(path: Path) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    monkeypatch.setattr(files, "_sync", full)
    message = (
        r"No space left on device; make room, and the same command resumes from \d+ of 75 pict"
    )
    with pytest.raises(OSError, match=message) as caught:
        run("again")
    assert "\n" not in str(caught.value)
    assert "again.parts" in str(caught.value)
    assert content(run("again")) == expected


def test_the_share_of_bad_pictures_is_of_all_shards_together(
    run: Callable[..., Path], source: Path
) -> None:
    for i in range(40):
        (source / f"{i:03d}.png").write_bytes(b"broken")
    for i in range(200):
        (source / f"more{i:03d}.png").write_bytes(b"broken" if i > 150 else picture(i))
        (source / f"more{i:03d}.txt").write_text("more")
    run("some")
    with pytest.raises(ValueError, match=r"of the first 2\d\d of 275 pictures cannot be used"):
        run("few", max_bad_fraction=0.15)


def test_progress_says_how_fast_it_is_and_how_long_it_takes(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("data.encoding.progress.time.monotonic", lambda: clock[0])
    progress = Progress("records/mine", 100_000, 40_000)
    clock[0] += 5
    progress.reach(41_000)
    clock[0] += 15
    progress.reach(50_000)
    progress.close()
    line = "records/mine: 50,000 of 100,000 pictures, 500 a second, 100 s left\n"
    assert capsys.readouterr().out == line


def test_progress_is_shown_before_the_first_shard_is_finished(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("data.encoding.progress.time.monotonic", lambda: clock[0])
    progress = Progress("records/mine", 318)
    for _ in range(12):
        clock[0] += 2.5
        progress.advance()
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "records/mine: 4 of 318 pictures, 0.4 a second, 13 min left",
        "records/mine: 8 of 318 pictures, 0.4 a second, 13 min left",
        "records/mine: 12 of 318 pictures, 0.4 a second, 13 min left",
    ]


def test_each_number_of_devices_gives_the_same_tokens(tmp_path: Path) -> None:
    import jax

    config = replace(TINY_VQGAN, tried_codes=2)
    params = autoencoder.build(config).init(jax.random.key(0))
    codes = jax.random.normal(jax.random.key(1), params["codebook"].shape)
    pretrained.save(tmp_path / "vqgan", config, {**params, "codebook": codes})
    pixels = np.random.default_rng(0).uniform(-1, 1, (256, 16, 16, 3)).astype(np.float32)
    found = []
    for count in (1, 2, 4):
        encoder = open_encoder(tmp_path / "vqgan", count)
        assert encoder.batch_size == 64 * count
        parts = np.split(pixels, 256 // encoder.batch_size)
        found.append(np.concatenate([np.asarray(encoder.encode(part)) for part in parts]))
    assert len(np.unique(found[0])) > 4
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_source_that_grew_is_encoded_at_the_price_of_what_is_new(
    run: Callable[..., Path], counting: Counting, source: Path, tmp_path: Path
) -> None:
    old = run("old")
    for i in range(5):
        (source / f"0{i}0more.png").write_bytes(picture(100 + i))  # sorted between the others
        (source / f"0{i}0more.txt").write_text("one more")
    with pytest.raises(ValueError, match=rf"with --reuse {old} the pictures that it has are not"):
        run("old")
    counting.seen.clear()
    reused = run("reused", reuse=str(old))
    assert len(counting.seen) == 5
    assert content(reused) == content(run("anew"))
    shorter = run("shorter", reuse=str(old), tokenizer=str(old / "tokenizer"), text_length=9)
    assert (shorter / "tokenizer" / "tokenizer.json").read_bytes() == (
        old / "tokenizer" / "tokenizer.json"
    ).read_bytes()


def test_tokens_of_other_weights_or_views_are_not_reused(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    old = str(run("old"))
    with pytest.raises(ValueError, match="it has 1 views of a picture; use --views=1"):
        run("new", reuse=old, views=2)
    (tmp_path / "vqgan" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="another VQGAN made its tokens"):
        run("new", reuse=old)
    (Path(old) / "pixel_hashes.u64").unlink()
    about = json.loads((Path(old) / "records.json").read_text())
    del about["arrays"]["pixel_hashes"]
    (Path(old) / "records.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="do not say which picture is which"):
        run("new", reuse=old)


def test_views_stand_beside_the_plain_one_and_are_the_same_each_time(
    run: Callable[..., Path], counting: Counting
) -> None:
    plain, moved = open_records(run("plain")), open_records(run("moved", views=4))
    np.testing.assert_array_equal(moved.image_tokens, plain.image_tokens)
    assert moved.view_tokens is not None
    assert moved.more_views == 3
    views = moved.view_tokens.reshape(len(moved), 3, -1)
    assert (views != moved.image_tokens[:, None]).any(axis=2).mean() > 0.5
    assert (views[:, 0] != views[:, 1]).any(axis=1).mean() > 0.5
    assert moved.digest != plain.digest
    counting.seen.clear()
    again = run("again", views=4, shard_size=7, reuse=str(moved.folder))
    assert content(again) == content(moved.folder)
    assert not counting.seen
    flipped = open_records(run("flipped", views=4, flips=True))
    assert flipped.view_tokens is not None
    changed = (flipped.view_tokens != moved.view_tokens).any(axis=1).mean()
    assert 0.2 < changed < 0.7
