"""Guessing the encoding of captions that are not UTF-8."""

import pytest

from data.sources.captions.encodings import MENDED, decode, encoding_of, guess, is_other_encoding


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


@pytest.mark.parametrize(
    "data",
    [
        *(b"a red bird\0", b"a red bird\0\0\0\0\0", b"a red\0 bird here", b"one bird\0two birds"),
        *("un café noir\0".encode(), b"0.png,a bird\0 0\n1.png,a cat\0 1\n"),
    ],
)
def test_zeros_at_the_ends_of_texts_do_not_make_utf_16_of_them(data: bytes) -> None:
    assert decode(data) == (data.decode(), "")
    assert encoding_of(data) == "utf-8-sig"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["あかいとりとくろいねこ\n", "あいうえおかきくけこ 1\n", "a\n一一一\n"]
)
def test_utf_16_of_kana_and_zeros_stays_utf_16(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a bird \xed\xa0\xbd\xed\xb8\x80 here", "a bird 😀 here"),  # as databases write it
        ("un café, deux cafés".encode() + b" na\xefve", "un café, deux cafés naïve"),
        ("un café, trois caf".encode() + b"\xc3", "un café, trois caf"),
        ("красная птица".encode() + b"\xd0", "красная птица"),
        ("“quoted” text".encode() + b"\xe2\x80", "“quoted” text"),
    ],
)
def test_one_damaged_letter_does_not_change_the_others(data: bytes, text: str) -> None:
    assert decode(data) == (text, MENDED)
    assert not is_other_encoding(data)
    assert encoding_of(data) == "utf-8-sig"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("café", "cp1252"), ("一只红色的鸟站在树上", "gb18030"), ("一只狗和两个苹果", "gb18030")],
)
def test_other_encodings_are_not_taken_for_damaged_utf_8(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


@pytest.mark.parametrize("encoding", ["iso2022_jp", "iso2022_kr"])
def test_japanese_and_korean_mail_is_known_by_its_sequences(encoding: str) -> None:
    text = "赤い鳥が木の上 2" if encoding == "iso2022_jp" else "빨간 새 2"
    decoded, name = decode(text.encode(encoding))
    assert decoded == text
    assert name.startswith(encoding)


def test_byte_order_marks_within_joined_files_are_no_letters() -> None:
    data = b"\xef\xbb\xbf\xef\xbb\xbfa bird\n\xef\xbb\xbfa cat"
    assert decode(data) == ("a bird\na cat", "")


def test_a_damage_far_behind_in_a_long_text_changes_no_letter_before_it() -> None:
    text = "a bird " * 200_000 + "un café, deux cafés "
    decoded, name = decode(text.encode() + b"na\xefve")
    assert (decoded, name) == (text + "naïve", MENDED)
