"""data.report: one page that loads nothing and escapes everything."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest

from data import encode, report
from data import filter as filtering
from data.encoding.config import EncodeConfig
from data.filter import FilterConfig
from data.looking.report_page import Picture, Report, page
from data.report import ReportConfig, by_reason, evenly_spaced
from tests.data.samples import picture
from tests.tiny import TINY_VQGAN
from vqgan import autoencoder, pretrained

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">&\udc80\x1b'


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    """The tags of a page, each with its attributes."""
    parser = _Tags()
    parser.feed(text)
    return parser.found


def test_nothing_of_the_data_is_markup_and_nothing_is_loaded() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    shown = Picture(HOSTILE, HOSTILE, pixels, pixels, 21.5)
    made = page(
        Report(
            HOSTILE,
            [(HOSTILE, HOSTILE)],
            [shown],
            [1, 2, 300],
            HOSTILE,
            [(HOSTILE, 3)],
            [0, 2, 5],
            [(HOSTILE, [shown])],
            [{"rule": HOSTILE, "looked_at": 3, "removed": HOSTILE, "without_column": 1}],
            [(HOSTILE, 2, [HOSTILE])],
        )
    )
    made.encode()
    found = tags(made)
    assert not {"script", "iframe", "link", "object"} & {name for name, _ in found}
    for name, attributes in found:
        assert not any(key.startswith("on") for key in attributes), (name, attributes)
        assert name != "img" or str(attributes["src"]).startswith("data:image/png;base64,")
    assert "Content-Security-Policy" in made
    assert not re.search(r"https?://", made)
    assert made.count("&lt;script&gt;") == 15


def test_an_empty_report_is_a_page() -> None:
    assert page(Report("nothing")).count("none</p>") == 7


def test_a_source_is_reported_with_its_copies_and_what_is_wrong(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(6)
    (folder / "006.png").write_bytes(picture(2))
    (folder / "006.txt").write_text("noise again")
    (folder / "007.png").write_bytes(b"<html>")
    (folder / "007.txt").write_text("a page")
    report.main(ReportConfig(str(folder), str(tmp_path / "a.html"), pictures=4))
    made = (tmp_path / "a.html").read_text()
    assert "a web page, no picture" in made
    assert "1 pictures come exactly so several times" in made
    assert "002.png and 006.png" in made
    assert made.count("<figure>") == 4 + 1
    with pytest.raises(ValueError, match=r"a\.html"):
        report.main(ReportConfig(str(folder), str(tmp_path / "a.html")))
    with pytest.raises(ValueError, match="name a .html file"):
        report.main(ReportConfig(str(folder), str(tmp_path / "a.txt")))


def test_records_are_reported_with_their_reconstructions_codes_filters_and_skipped_pictures(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    params = autoencoder.build(TINY_VQGAN).init(jax.random.key(0))
    pretrained.save(tmp_path / "vqgan", TINY_VQGAN, params)
    folder = make_folder(6)
    (folder / "003.png").write_bytes(b"<html>")
    (folder / "005.png").write_bytes(picture(1))
    records, chosen = tmp_path / "records", tmp_path / "chosen"
    given = {"out": str(records), "vqgan": str(tmp_path / "vqgan"), "vocab_size": 300}
    encode.main(EncodeConfig(source=(str(folder),), held_out=0.0, text_length=12, **given))  # type: ignore[arg-type]
    report.main(ReportConfig(str(records), str(tmp_path / "a.html"), pictures=3))
    made = (tmp_path / "a.html").read_text()
    assert "<figure>" in made
    assert len(re.findall(r"[\d.]+ dB", made)) == 3
    assert f"of {TINY_VQGAN.codebook_size:,} codes are used; perplexity" in made
    assert "a web page, no picture" in made
    assert "001.png and 005.png" in made
    assert "5 (5 train)" in made
    filtering.main(FilterConfig(str(records), str(chosen), ("caption!~number 2",)))
    report.main(ReportConfig(str(chosen), str(tmp_path / "b.html"), pictures=3))
    made = (tmp_path / "b.html").read_text()
    assert "caption!~number 2" in made
    assert "exact duplicates" in made
    assert "3 (3 train)" in made
    for file in folder.iterdir():
        file.unlink()
    report.main(ReportConfig(str(chosen), str(tmp_path / "c.html"), pictures=3))
    assert "3 (3 train)" in (tmp_path / "c.html").read_text()


def test_places_are_spread_and_reasons_counted() -> None:
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(2, 4) == [0, 1]
    assert evenly_spaced(0, 4) == []
    assert by_reason([("a", "x"), ("b", "y"), ("c", "y")]) == [
        ("y", 2, ["b", "c"]),
        ("x", 1, ["a"]),
    ]
