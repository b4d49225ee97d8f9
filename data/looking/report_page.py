"""The HTML of data.report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from common.html_page import document, image, section, table, text
from common.json_files import Json


@dataclass
class Picture:
    """A picture for the page: as it was read, and its reconstruction from tokens."""

    caption: str
    about: str
    pixels: UInt8[np.ndarray, "y x 3"] | None
    again: UInt8[np.ndarray, "y x 3"] | None = None
    decibels: float | None = None


@dataclass
class Report:
    """The content of the page. Texts may be anything; they are escaped here."""

    title: str
    summary: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    lengths: Sequence[int] = ()
    """Tokens or words of each caption."""
    length_unit: str = "words"
    words: list[tuple[str, int]] = field(default_factory=list)
    code_counts: Sequence[int] = ()
    """The number of uses of each code in the records."""
    groups: list[tuple[str, list[Picture]]] = field(default_factory=list)
    """Pictures that come several times."""
    filters: list[Json] = field(default_factory=list)
    skipped: list[tuple[str, int, list[str]]] = field(default_factory=list)
    """Reason, number of pictures, the first by name."""


def page(report: Report) -> str:
    """The whole page."""
    parts = [
        f"<h1>{text(report.title)}</h1>",
        table((), report.summary),
        section("Pictures", _pictures(report.pictures)),
        section(f"Lengths of captions, in {report.length_unit}", _histogram(report.lengths)),
        section("Words", _words(report.words)),
        section("Codes of the codebook", _codes(report.code_counts)),
        section("Duplicates", _groups(report.groups)),
        section("Filters", _filters(report.filters)),
        section("Skipped pictures", _skipped(report.skipped)),
    ]
    return document(report.title, parts)


def _pictures(pictures: Iterable[Picture]) -> str:
    figures = []
    for shown in pictures:
        images = [image(pixels) for pixels in (shown.pixels, shown.again) if pixels is not None]
        decibels = "" if shown.decibels is None else f", {shown.decibels:.1f} dB"
        figures.append(
            f"<figure>{' '.join(images)}<figcaption>{text(shown.caption)}<br>"
            f"<span class=faint>{text(shown.about)}{decibels}</span></figcaption></figure>"
        )
    return f"<div class=pictures>{''.join(figures)}</div>" if figures else ""


def _histogram(values: Sequence[int]) -> str:
    if not len(values):
        return ""
    counts = np.bincount(np.minimum(np.asarray(values), 99))
    bars = _bars(counts.tolist())
    middle = int(np.median(np.asarray(values)))
    return f"{bars}<p>Median {middle}, most {int(max(values)):,} (99 stands for 99 or more).</p>"


def _bars(counts: Sequence[int]) -> str:
    """Bars of one colour; the numbers under some of them are their places."""
    most, width, height = max(counts), max(900 // len(counts), 1), 120
    step = max(len(counts) // 20, 1)
    bars = "".join(
        f'<rect x="{i * width}" y="{height - count / most * height:.1f}" '
        f'width="{max(width - 1, 1)}" height="{count / most * height:.1f}"/>'
        for i, count in enumerate(counts)
        if count
    )
    labels = "".join(
        f'<text x="{i * width}" y="{height + 14}">{i}</text>' for i in range(0, len(counts), step)
    )
    return f'<svg width="{width * len(counts)}" height="{height + 20}">{bars}{labels}</svg>'


def _words(words: Sequence[tuple[str, int]]) -> str:
    spans = (f"<span>{text(w)} <span class=faint>{n:,}</span></span>" for w, n in words)
    return f"<p class=words>{' '.join(spans)}</p>" if words else ""


def _codes(counts: Sequence[int]) -> str:
    uses = np.asarray(counts, np.float64)
    if not uses.sum():
        return ""
    shares = uses[uses > 0] / uses.sum()
    perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
    ranked = np.sort(uses)[::-1]
    grouped = [float(part.mean()) for part in np.array_split(ranked, min(len(ranked), 200))]
    return (
        f"<p>{int((uses > 0).sum()):,} of {len(uses):,} codes are used; perplexity "
        f"{perplexity:,.0f} (as diverse as that many codes used equally). Most used "
        f"first:</p>{_bars_plain(grouped)}"
    )


def _bars_plain(values: Sequence[float]) -> str:
    most = max(values)
    sizes = [100 * value / most for value in values]
    bars = "".join(
        f'<rect x="{4 * i}" y="{100 - size:.1f}" width="3" height="{size:.1f}"/>'
        for i, size in enumerate(sizes)
    )
    return f'<svg width="{4 * len(values)}" height="104">{bars}</svg>'


def _groups(groups: Sequence[tuple[str, list[Picture]]]) -> str:
    return "".join(f"<p>{text(why)}</p>{_pictures(pictures)}" for why, pictures in groups)


def _filters(filters: Iterable[dict[str, object]]) -> str:
    names = ("rule", "looked_at", "removed", "without_column")
    rows = [tuple(row.get(name, "") for name in names) for row in filters]
    return table(("rule", "looked at", "removed", "without the column"), rows)


def _skipped(skipped: Iterable[tuple[str, int, list[str]]]) -> str:
    rows = [(why, count, ", ".join(names)) for why, count, names in skipped]
    return table(("reason", "pictures", "such as"), rows)
