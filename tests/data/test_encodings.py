"""Guessing the encoding of captions that are not UTF-8."""

import pytest

from data.sources.captions.encodings import decode, guess, is_other_encoding


@pytest.mark.parametrize(
    "text",
    [
        *("café crème", "naïve façade", "smörgåsbord", "piñata", "São Paulo", "Ærøskøbing"),
        *("it’s", "“quoted” – dash", "100 €", "£5", "Müller’s “Café”"),
    ],
)
def test_a_few_latin_words_are_read_as_such(text: str) -> None:
    assert decode(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *(("Привет мир", "cp1251"), ("кот и пёс в лесу", "cp1251"), ("кот cat", "cp1251")),
        *(("一隻紅色的鳥", "big5"), ("海邊的日出", "big5"), ("一只红色的鸟", "gb18030")),
        *(("赤い鳥", "cp932"), ("カタカナ", "cp932")),
    ],
)
def test_words_of_another_script_are_not_taken_for_latin_ones(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["a café’s bird", "Пёс и кот\r\nсобака", "一只鸟 1", "赤い鳥\n", "КРАСНАЯ ПТИЦА"]
)
def test_utf_16_needs_no_mark(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)
    assert not is_other_encoding(text.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["一只红色的鸟站在树枝上", "赤い鳥が枝に止まっている"])
def test_utf_16_without_any_zero_byte_is_guessed_from_all_captions(
    text: str, encoding: str
) -> None:
    files = [text.encode(encoding)] * 3
    assert decode(files[0], guess(files)) == (text, encoding)
    assert decode(b"plain", guess(files)) == ("plain", "")


def test_utf_32_is_known_by_its_mark() -> None:
    assert decode("a bird".encode("utf-32")) == ("a bird", "utf-32")


def test_a_few_words_among_the_keys_of_a_json_are_enough() -> None:
    text = '{"caption": "一只鸟"}'
    assert decode(text.encode("gbk")) == (text, "gb18030")


def test_russian_is_not_taken_for_half_width_kana() -> None:
    captions = [f"красная птица на ветке {i}".encode("koi8_r") for i in range(5)]
    assert guess(captions) == "koi8_r"
