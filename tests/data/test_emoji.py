"""data.emoji: its splits are the trial's, and nothing leaks between them."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import emoji as emoji_module
from data.builtin.drawings import digest, rasterise, read_table
from data.builtin.openmoji_splits import Emoji, assign_splits, gender_triples
from data.emoji import EmojiConfig, captions_of, in_starter, main, svg_files
from data.sources import open_source


@pytest.fixture(scope="module")
def emojis() -> list[Emoji]:
    return read_table()


@pytest.fixture(scope="module")
def pictures(emojis: list[Emoji]) -> dict[str, bytes]:
    return rasterise(svg_files(e.hexcode for e in emojis), 64)


@pytest.fixture(scope="module")
def digests(pictures: dict[str, bytes]) -> dict[str, str]:
    return {name: digest(png) for name, png in pictures.items()}


@pytest.fixture(scope="module")
def splits(emojis: list[Emoji], digests: dict[str, str]) -> dict[str, str]:
    return assign_splits(emojis, digests)


def test_the_table_is_the_trial_s(emojis: list[Emoji]) -> None:
    assert len(emojis) == 4495
    assert sum(bool(e.tags) for e in emojis) == 4375
    tones = Counter(e.tone.count(",") + 1 for e in emojis if e.tone)
    assert tones == {1: 1650, 2: 380}
    triples = gender_triples(emojis)
    assert len({role for _, role in triples.values()}) == 71


def test_there_are_4270_distinct_pictures(digests: dict[str, str]) -> None:
    assert len(set(digests.values())) == 4270


def test_splits_have_the_trial_s_sizes(splits: dict[str, str]) -> None:
    assert Counter(splits.values()) == {
        "train": 3995,
        "tone": 284,
        "tone2": 31,
        "gender": 37,
        "random": 101,
        "gallery": 47,
    }


def test_held_out_women_are_the_trial_s(emojis: list[Emoji], splits: dict[str, str]) -> None:
    triples = gender_triples(emojis)
    roles = {triples[e.concept][1] for e in emojis if splits[e.hexcode] == "gender"}
    assert roles == {
        "frowning",
        "artist",
        "in manual wheelchair",
        "kneeling: facing right",
        "superhero",
        "zombie",
        "in tuxedo",
    }


def test_no_pixels_are_both_trained_and_held_out(
    splits: dict[str, str], digests: dict[str, str]
) -> None:
    trained = {digests[name] for name, split in splits.items() if split == "train"}
    for name, split in splits.items():
        assert split in ("train", "gallery") or digests[name] not in trained, name


def test_no_caption_is_both_trained_and_held_out(
    emojis: list[Emoji], splits: dict[str, str]
) -> None:
    trained = {text for e in emojis if splits[e.hexcode] == "train" for text, _ in captions_of(e)}
    for emoji in emojis:
        if splits[emoji.hexcode] not in ("train", "gallery"):
            assert not trained & {text for text, _ in captions_of(emoji)}, emoji.name


def test_every_name_is_one_picture_s(emojis: list[Emoji]) -> None:
    assert len({e.name for e in emojis}) == len(emojis)


def test_combinations_are_held_out_but_their_parts_are_trained(
    emojis: list[Emoji], splits: dict[str, str]
) -> None:
    trained = [e for e in emojis if splits[e.hexcode] == "train"]
    words = {word for e in trained for word in _words(e.name)}
    concepts = {(e.concept, len(e.tone)) for e in trained}
    for emoji in emojis:
        split = splits[emoji.hexcode]
        if split in ("tone", "tone2", "gender"):
            assert _words(emoji.name) <= words, emoji.name
        if split in ("tone", "tone2"):
            assert (emoji.concept, len(emoji.tone)) in concepts
        if split == "gender":
            assert (emoji.concept, len(emoji.tone)) not in concepts


def _words(name: str) -> set[str]:
    return set(name.replace(":", " ").replace(",", " ").split())


def test_splits_do_not_depend_on_the_order_of_rows(
    emojis: list[Emoji], digests: dict[str, str], splits: dict[str, str]
) -> None:
    assert assign_splits(emojis[::-1], digests) == splits


def test_captions_are_names_tags_and_templates_by_weight(emojis: list[Emoji]) -> None:
    for emoji in emojis:
        captions = captions_of(emoji)
        assert captions[0][0] == emoji.name
        assert sum(weight for _, weight in captions) == pytest.approx(1)
        assert len({text for text, _ in captions}) == len(captions)
        tagged = sum(weight for text, weight in captions if text.startswith(f"{emoji.name}, "))
        assert tagged == pytest.approx(0.15 if emoji.tags else 0)
        assert captions[0][1] == pytest.approx(0.7 if emoji.tags else 0.85)


def test_skin_tones_inherit_the_tags_of_their_base(emojis: list[Emoji]) -> None:
    tags = {e.hexcode: e.tags for e in emojis}
    assert all(e.tags == tags[e.concept] for e in emojis)


def test_the_starter_has_496_to_train_and_49_tones_and_keeps_all_pictures(
    tmp_path: Path,
    pictures: dict[str, bytes],
    emojis: list[Emoji],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(emoji_module, "rasterise", lambda names, size: pictures)
    main(EmojiConfig(out=str(tmp_path / "starter")))
    by_code = {e.attributes["hexcode"]: e for e in open_source(tmp_path / "starter")}
    assert Counter(e.split for e in by_code.values()) == {
        "train": 496,
        "tone": 49,
        "random": 16,
        "tone2": 1,
        "gallery": 3933,
    }
    assert "49 tone" in capsys.readouterr().out
    hand = by_code["1F44B-1F3FC"]
    assert hand.captions[0] == ("waving hand: medium-light skin tone", 0.7)
    assert (hand.attributes["concept"], hand.attributes["tone"]) == ("1F44B", "2")
    assert hand.picture(64).shape == (64, 64, 3)
    assert by_code["1F9D1-200D-1F3A8"].attributes["role"] == "artist"
    trained = {e.hexcode for e in emojis if in_starter(e)}
    assert all(name in trained for name, one in by_code.items() if one.split != "gallery")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the table to a dozen drawings."""
    rows = read_table()
    monkeypatch.setattr(emoji_module, "read_table", lambda: rows[:12])


@pytest.mark.usefixtures("few")
def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        main(EmojiConfig(out=str(tmp_path / name), subset="all", image_size=16))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.usefixtures("few")
def test_tars_are_plain_pairs_of_png_and_json(tmp_path: Path) -> None:
    main(EmojiConfig(out=str(tmp_path / "e"), subset="all", image_size=16))
    with tarfile.open(tmp_path / "e" / "00000.tar") as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile("1F600.json"))  # type: ignore[arg-type]
    assert names[:2] == ["1F600.json", "1F600.png"]
    assert about["captions"][0] == "grinning face"
    assert np.isclose(sum(about["weights"]), 1)


@pytest.mark.usefixtures("few")
def test_a_finished_folder_is_kept_and_another_one_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EmojiConfig(out=str(tmp_path / "e"), subset="all", image_size=16)
    main(config)
    monkeypatch.setattr(emoji_module, "rasterise", None)
    main(config)
    assert "another version" not in capsys.readouterr().err
    monkeypatch.setattr(emoji_module, "recipe_digest", lambda: "of another resvg")
    main(config)
    assert "e was made by another version of Pastel" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds something else"):
        main(EmojiConfig(out=str(tmp_path / "e"), subset="starter", image_size=16))
    with pytest.raises(ValueError, match="image_size 4 is not between"):
        main(EmojiConfig(out=str(tmp_path / "f"), image_size=4))
