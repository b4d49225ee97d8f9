"""Settings of reading are checked before anything is read."""

import pytest

from data.sources import ReadingConfig


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("caption_encoding", ["nope", "rot13", "hex", "zip", "a\0b"]),
        ("background", ["nocolour", "", "#12"]),
        ("caption_template", ["", "a bird", "{", "{name}"]),
        ("max_bad_fraction", [-0.1, 2.0]),
    ],
)
def test_a_setting_that_cannot_work_is_named(setting: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=setting):
            ReadingConfig(**{setting: value})  # type: ignore[arg-type]


def test_encodings_by_any_of_their_names_and_colours_of_any_spelling_work() -> None:
    for name in ("", "cp1250", "GBK", "Shift_JIS", "UTF-16", "utf8", "latin-1", "idna"):
        assert ReadingConfig(caption_encoding=name).caption_encoding == name
    for colour in ("white", "#fff", "#ff00ff", "rgb(1, 2, 3)"):
        assert ReadingConfig(background=colour).background == colour
