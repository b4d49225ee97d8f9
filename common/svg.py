"""Plots as SVG in text: lines, points and parallel axes, for pages without a network."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"),
    *("#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#000000", "#aec7e8"),
    *("#ffbb78", "#98df8a", "#ff9896", "#c5b0d5"),
)
WIDTH, HEIGHT, LEFT, LOW, TOP, RIGHT = 640, 300, 60, 40, 24, 20
MOST = 400
"""Points of a line that are drawn."""
FEW = 16
"""Most points of a line that are marked, and most lines that a legend names."""


@dataclass(frozen=True)
class Axis:
    """A range of numbers on a line of pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The position of a value, in pixels."""
        scale = math.log if self.is_log else float
        low, high = scale(self.low), scale(self.high)
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values within the range: 1, 2 and 5 times a power of ten. Both ends of a range that
        holds fewer than two."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                ticks = [float(f"{step}e{power}") for power in powers for step in steps]
                ticks = [tick for tick in ticks if self.low <= tick <= self.high]
                if len(ticks) <= 9:
                    break
        else:
            ticks = self._even_ticks()
        return ticks if len(ticks) > 1 else [*dict.fromkeys((self.low, self.high))]

    def _even_ticks(self) -> list[float]:
        rough = (self.high - self.low) / 4
        if rough <= 0:
            return []
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def colour(number: int) -> str:
    """The colour of line `number`."""
    return COLOURS[number % len(COLOURS)]


def finite(points: Points, log_x: bool = False) -> list[tuple[float, float]]:
    """The points that can be drawn, thinned to MOST."""
    kept = [
        (x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)
    ]
    every = max(len(kept) // MOST, 1)
    return kept[::every] + (kept[-1:] if kept and (len(kept) - 1) % every else [])


def plot(
    lines: Mapping[str, Points],
    x_name: str,
    y_name: str,
    *,
    log_x: bool = False,
    dots: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """An SVG of lines, or of dots, by name; `marks` are vertical lines with a text that shows under
    the pointer. Empty where there is nothing to draw."""
    drawn = {name: finite(points, log_x) for name, points in lines.items()}
    everything = [point for points in drawn.values() for point in points]
    if not everything:
        return ""
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    across = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x)
    up = Axis(min(ys), max(ys), HEIGHT - LOW, TOP)
    parts = [_frame(across, up, x_name, y_name)]
    for x, text in marks:
        if across.low <= x <= across.high:
            parts.append(
                f'<line x1="{across.at(x)}" x2="{across.at(x)}" y1="{TOP}" y2="{HEIGHT - LOW}" '
                f'stroke="#999" stroke-dasharray="3 3"><title>{html.escape(text)}</title></line>'
            )
    for number, (name, points) in enumerate(drawn.items()):
        title = f"<title>{html.escape(name)}</title>"
        if dots or len(points) <= FEW:
            parts += [
                f'<circle cx="{across.at(x)}" cy="{up.at(y)}" r="{4 if dots else 2.5}" '
                f'fill="{colour(number)}">{title}</circle>'
                for x, y in points
            ]
        if dots:
            continue
        way = " ".join(f"{across.at(x)},{up.at(y)}" for x, y in points)
        parts.append(
            f'<polyline points="{way}" fill="none" stroke="{colour(number)}" stroke-width="1.5">'
            f"{title}</polyline>"
        )
    return _svg(WIDTH, HEIGHT, parts, _legend(list(drawn)))


def _legend(names: Sequence[str]) -> list[str]:
    """The legend below the plot: a text for each line; empty for one line or for too many."""
    if not 1 < len(names) <= FEW:
        return []
    return [
        f'<rect x="{LEFT}" y="{HEIGHT + 14 * k + 1}" width="9" height="9" fill="{colour(k)}"/>'
        + _text(LEFT + 14, HEIGHT + 14 * k + 9, name, "start")
        for k, name in enumerate(names)
    ]


def parallel(names: Sequence[str], rows: Sequence[Sequence[float]], titles: Sequence[str]) -> str:
    """An SVG of parallel axes, one for each name; a row is a line with a value on each of them."""
    if not rows or len(names) < 2:
        return ""
    columns = list(zip(*rows, strict=True))
    gap = (WIDTH - 2 * LEFT) / (len(names) - 1)
    axes = [Axis(min(c), max(c), HEIGHT - LOW, 20) for c in columns]
    parts = []
    for i, (name, axis) in enumerate(zip(names, axes, strict=True)):
        x = LEFT + i * gap
        parts += [
            f'<line x1="{x}" x2="{x}" y1="20" y2="{HEIGHT - LOW}" stroke="#333"/>',
            _text(x, HEIGHT - 8, name, "middle"),
            _text(x, HEIGHT - LOW + 14, f"{axis.low:.3g}", "middle"),
            _text(x, 14, f"{axis.high:.3g}", "middle"),
        ]
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        way = " ".join(
            f"{LEFT + i * gap:.1f},{axis.at(value)}"
            for i, (axis, value) in enumerate(zip(axes, row, strict=True))
        )
        parts.append(
            f'<polyline points="{way}" fill="none" stroke="{colour(number)}" opacity="0.8">'
            f"<title>{html.escape(title)}</title></polyline>"
        )
    return _svg(WIDTH, HEIGHT, parts)


def _frame(across: Axis, up: Axis, x_name: str, y_name: str) -> str:
    bottom = HEIGHT - LOW
    parts = [
        f'<path d="M{LEFT},{TOP} V{bottom} H{WIDTH - RIGHT}" fill="none" stroke="#333"/>',
        _text((LEFT + WIDTH) / 2, HEIGHT - 4, x_name, "middle"),
        _text(4, 10, y_name, "start"),
    ]
    for t in across.ticks:
        parts.append(f'<path d="M{across.at(t)},{bottom} v4" stroke="#333"/>')
        parts.append(_text(across.at(t), bottom + 15, f"{t:.6g}", "middle"))
    for t in up.ticks:
        parts.append(f'<path d="M{LEFT - 4},{up.at(t)} h4" stroke="#333"/>')
        parts.append(_text(LEFT - 6, up.at(t) + 4, f"{t:.6g}", "end"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


def _svg(width: int, height: int, parts: Sequence[str], legend: Sequence[str] = ()) -> str:
    """The SVG on a white background, as text is black, with the legend below the plot."""
    height += 14 * len(legend) + (6 if legend else 0)
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    inner = "".join((ground, *parts, *legend))
    return f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" {box}>{inner}</svg>'
