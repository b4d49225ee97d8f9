"""data/words.py: words of captions, and those that no training caption has."""

from data.words import tell_unknown, unknown_words, words_of


def test_words_are_small_letters_without_marks() -> None:
    assert words_of("A red-brown CAT’s “tail”, 3 o'clock_ 猫") == [
        "a",
        "red",
        "brown",
        "cat's",
        "tail",
        "3",
        "o'clock",
        "猫",
    ]
    assert words_of("") == []


def test_unknown_words_are_told_once_in_their_order() -> None:
    known = {"a", "red", "cat"}
    unknown = unknown_words(["a red zebra", "Zebra cat dog"], known)
    assert unknown == ["zebra", "dog"]
    assert tell_unknown(unknown) == "no training caption has these words: zebra, dog"
    assert tell_unknown(["dog"]) == "no training caption has this word: dog"
    assert tell_unknown([str(i) for i in range(23)]).endswith(", 19 and 3 more")
