"""A thing's name in another language is put into the captions' English, and nothing else is."""

import pytest

from data.languages import english_names, to_english

WORDS = {
    "a",
    "foot",
    "cat",
    "face",
    "red",
    "apple",
    "pizza",
    "rocket",
    "style",
    "noto",
    "an",
    "rose",
}


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
    ],
)
def test_names_of_other_languages_become_the_captions_own(prompt: str, english: str) -> None:
    assert to_english(prompt, WORDS) == english


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "rose",
        "a blue cat",
        "",
        ",",
        "Haus",
        "eine blaue Katze",
        ":katze:",
        "the",
        "l'",
        "pie",
    ],
)
def test_others_stay_as_they_are(prompt: str) -> None:
    """Known words, English ones (pie is a foot in Spanish), unknown things, and sentences."""
    assert to_english(prompt, WORDS) == prompt


def test_all_thirteen_languages_are_read() -> None:
    names = english_names()
    cats = ["gato", "ネコ", "고양이", "gatto", "chat", "katze"]
    cats += ["گربه", "kucing", "猫", "кошка", "kedi", "قطة"]
    assert {names[name] for name in cats} == {"cat"}
