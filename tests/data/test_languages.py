"""A thing's name in another language is translated to the captions' English; other words are
not."""

import pytest

from data.text.languages import English, english_names
from data.text.words import Captions

CAPTIONS = [
    "a cat",
    "cat",
    "Red apple",
    "a pizza",
    "pizza",
    "rocket",
    "a rose",
    "foot",
    "a blue cat",
]
ENGLISH = English(Captions([*CAPTIONS, "sun", "the cat of the house", "noto style"]))


@pytest.mark.parametrize(
    ("prompt", "english"),
    [
        ("Katze", "cat"),
        ("eine Katze", "cat"),
        ("猫", "cat"),
        ("кошка, noto style", "cat, noto style"),
        ("une fusée", "rocket"),
        ("ROTER  APFEL", "red apple"),
        ("ピザ", "pizza"),
        ("صاروخ", "rocket"),
        ("the sun", "sun"),
        ("The sun, blob style", "sun, blob style"),
        ("una pizza", "pizza"),
        ("un pizza", "pizza"),
        ("las pizza", "pizza"),
        ("a rocket", "rocket"),
    ],
)
def test_names_of_other_languages_become_the_captions_own(prompt: str, english: str) -> None:
    assert ENGLISH.read(prompt) == english


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "A rose",
        "a blue cat",
        "",
        ",",
        "Fahrrad",
        "the blue rocket",
        "theatre",
        "eine blaue Katze",
        "the",
        "l'",
        "pie",
    ],
)
def test_others_stay_as_they_are(prompt: str) -> None:
    """Captions, English words (pie means foot in Spanish), unknown things and sentences are
    unchanged."""
    assert ENGLISH.read(prompt) == prompt


def test_all_thirteen_languages_are_read() -> None:
    names = english_names()
    cats = ["gato", "ネコ", "고양이", "gatto", "chat", "katze"]
    cats += ["گربه", "kucing", "猫", "кошка", "kedi", "قطة"]
    assert {names[name] for name in cats} == {"cat"}
