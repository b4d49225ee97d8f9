"""data/text/words.py: the words of captions, and words that no training caption has."""

from data.text.words import Captions, describe_unknown, describe_unlike, unknown_words, words_of


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


def test_unknown_words_are_reported_once_in_their_order() -> None:
    known = {"a", "red", "cat"}
    unknown = unknown_words(["a red zebra", "Zebra cat dog"], known)
    assert unknown == ["zebra", "dog"]
    assert describe_unknown(unknown) == "no training caption has these words: zebra, dog"
    assert describe_unknown(["dog"]) == "no training caption has this word: dog"
    assert describe_unknown([str(i) for i in range(23)]).endswith(", 19 and 3 more")


CAPTIONS = ["a red apple", "a red heart", "a black cat", "two people holding hands"]


def test_the_nearest_captions_share_the_rarest_words() -> None:
    nearest = Captions(CAPTIONS)
    assert nearest.find("a red apple") == (1.0, ["a red apple", "a red heart", "a black cat"])
    share, captions = nearest.find("black apples, a red one")  # spelt nearly like apple
    assert captions[:2] == ["a red apple", "a black cat"]
    assert 0 < share < 1
    assert nearest.find("xylophone") == (0.0, [])
    assert nearest.find("") == (1.0, [])


def test_a_prompt_far_from_all_captions_is_named_with_the_nearest_ones() -> None:
    nearest = Captions(CAPTIONS)
    assert describe_unlike(["the red apple", "black cats", ""], nearest) == []
    assert describe_unlike(["a submarine under water", "a submarine under water"], nearest) == [
        "no training caption is near 'a submarine under water'; the nearest are: "
        '"a red apple", "a red heart", "a black cat"'
    ]
    [message] = describe_unlike(["xylophone"], Captions([" a cat", " a dog "]))
    assert '"a cat", "a dog"' in message
    assert describe_unlike(["xylophone"], nearest) == [
        "no training caption is near 'xylophone'; it was trained on such as: "
        '"a red apple", "a red heart", "a black cat"'
    ]
    many = describe_unlike([f"submarine {i}" for i in range(9)], nearest)
    assert len(many) == 6
    assert many[-1] == "4 more prompts are as far"


def test_an_article_is_neither_unknown_nor_far_from_captions_without_one() -> None:
    captions = ["red apple", "lemon", "tiger"]
    assert unknown_words(["a red apple", "The tiger"], Captions(captions).words) == []
    assert Captions(captions).find("a red apple") == (1.0, ["red apple"])
    assert describe_unlike(["a tiger", "the lemon"], Captions(captions)) == []
