"""Which encoding captions are in that are no UTF-8."""

import pytest

from data.sources.texts import decode


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
