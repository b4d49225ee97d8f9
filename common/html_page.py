"""HTML pages in one file, without scripts, that load nothing from anywhere."""

import base64
import html
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from common.pixels import as_png

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .5rem 0 }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 48%; image-rendering: pixelated; border: 1px solid #ddd }
figcaption { font-size: 13px; overflow-wrap: anywhere } .faint { color: #777 }
svg { display: block; margin: .5rem 0 } svg rect { fill: #4a78b5 } svg text { font-size: 11px }
.prompts img { width: 64px; image-rendering: pixelated; border: 2px solid transparent }
.prompts .right img { border-color: #3a9a4b }
.words span { display: inline-block; margin-right: 1.1rem }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page of parts that are HTML already."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def text(value: object) -> str:
    """Any text as HTML, with nothing in it that a browser would obey, lone surrogates included."""
    return html.escape(str(value).encode(errors="backslashreplace").decode())


def section(title: str, body: str) -> str:
    """A heading and its content, which may be missing."""
    return f"<h2>{text(title)}</h2>\n{body or '<p class=faint>none</p>'}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with right-aligned numbers."""
    rows = list(rows)
    if not rows:
        return ""
    is_number = [isinstance(cell, int | float) for cell in rows[0]]
    kinds = [" class=n" if number else "" for number in is_number]
    head = "".join(f"<th{k}>{text(h)}</th>" for h, k in zip(heads, kinds, strict=False))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{_cell(c)}</td>" for c, k in zip(r, kinds, strict=True)) + "</tr>"
        for r in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else text(value)


def image(pixels: UInt8[np.ndarray, "y x 3"]) -> str:
    """A picture within the page, as PNG."""
    png = as_png(Image.fromarray(pixels))
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
