"""The plots of the page, as SVG written by hand: they stay sharp, and small in the repository."""

import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from bench.servers import ROOT

FOLDER: Final = ROOT / "docs" / "performance"
WIDTH: Final = 860
_MARGIN: Final = 20
_LABELS: Final = 320
"""Where the bars begin, right of their names."""
_VALUES: Final = 180
"""Left free for what is written behind the longest bar."""
_ROW: Final = 30
_BAR: Final = 18
_TITLE: Final = 52

_INK: Final = "#1f2933"
_FAINT: Final = "#7b8794"
_GRID: Final = "#e4e7eb"
_OURS: Final = "#0b7a5c"
_THEIRS: Final = "#a9b4bf"
_PARTS: Final = (
    "#0b7a5c", "#3b82c4", "#e0a030", "#b5527a", "#6f6fb5", "#5aa6a6", "#c46f3b", "#8a9a3b",
    "#7b8794",
)  # fmt: skip


class Bar(NamedTuple):
    """A bar with its name, the text behind it, and how far the rounds were apart."""

    name: str
    value: float
    text: str
    low: float
    high: float
    is_ours: bool = False


class Group(NamedTuple):
    """Bars under one heading."""

    heading: str
    bars: Sequence[Bar]


class Dots(NamedTuple):
    """Figures of one name on a common scale."""

    name: str
    values: Sequence[float]
    is_ours: bool = False


class Point(NamedTuple):
    """A figure over a size."""

    name: str
    value: float
    text: str
    low: float
    high: float


class Part(NamedTuple):
    """A part of a whole."""

    name: str
    value: float
    text: str


class _Drawing:
    def __init__(self, title: str, subtitle: str) -> None:
        self._title = title
        self._items: list[str] = []
        self.text(_MARGIN, 28, title, size=17, weight=600)
        self.text(_MARGIN, 46, subtitle, fill=_FAINT)

    def text(  # noqa: PLR0913 - what a text on a drawing has
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 13,
        fill: str = _INK,
        anchor: str = "start",
        weight: int = 400,
    ) -> None:
        self._items.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
            f'fill="{fill}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self._items.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.5):.1f}" '
            f'height="{height:.1f}" fill="{fill}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, stroke: str = _INK) -> None:
        self._items.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"/>'
        )

    def dot(self, x: float, y: float, fill: str, *, radius: float = 5) -> None:
        self._items.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"/>')

    def svg(self, height: float) -> str:
        body = "\n".join(self._items)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{escape(self._title)}" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def save(name: str, svg: str) -> None:
    """Write a plot where the page finds it."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.svg").write_text(svg)


def bars(title: str, subtitle: str, groups: Sequence[Group]) -> str:
    """Return horizontal bars on one scale; the thin line shows the lowest and the highest round."""
    drawing = _Drawing(title, subtitle)
    largest = max(bar.high for group in groups for bar in group.bars)
    scale = (WIDTH - _LABELS - _VALUES - _MARGIN) / largest
    y = float(_TITLE + 14)
    for group in groups:
        if group.heading:
            drawing.text(_MARGIN, y + 14, group.heading, weight=600)
            y += _ROW - 4
        for bar in group.bars:
            middle = y + _BAR / 2
            weight = 600 if bar.is_ours else 400
            drawing.text(_LABELS - 10, middle + 5, bar.name, anchor="end", weight=weight)
            fill = _OURS if bar.is_ours else _THEIRS
            drawing.box(_LABELS, y, bar.value * scale, _BAR, fill)
            drawing.line(_LABELS + bar.low * scale, middle, _LABELS + bar.high * scale, middle)
            drawing.text(_LABELS + bar.high * scale + 8, middle + 5, bar.text, weight=weight)
            y += _ROW
        y += 10
    return drawing.svg(y + 4)


def dots(title: str, subtitle: str, names: Sequence[str], rows: Sequence[Dots], unit: str) -> str:
    """Return dots on a logarithmic scale, one row a name; `names` say what each dot is."""
    drawing = _Drawing(title, subtitle)
    all_values = [value for row in rows for value in row.values]
    lowest = math.floor(math.log10(min(all_values)))
    highest = math.ceil(math.log10(max(all_values)))
    left, right = _LABELS, WIDTH - _MARGIN - 20

    def place(value: float) -> float:
        return left + (math.log10(value) - lowest) / (highest - lowest) * (right - left)

    x = float(left)
    for name, radius in zip(names, _radii(len(names)), strict=True):
        drawing.dot(x + 6, _TITLE + 14, _FAINT, radius=radius)
        drawing.text(x + 16, _TITLE + 19, name, fill=_FAINT)
        x += 34 + 8 * len(name)
    top = _TITLE + 36
    bottom = top + _ROW * len(rows)
    for power in range(lowest, highest + 1):
        drawing.line(place(10**power), top, place(10**power), bottom, stroke=_GRID)
        label = f"{10**power:g} {unit}"
        drawing.text(place(10**power), bottom + 18, label, fill=_FAINT, anchor="middle")
    for index, row in enumerate(rows):
        y = top + _ROW * (index + 0.5)
        weight = 600 if row.is_ours else 400
        fill = _OURS if row.is_ours else _THEIRS
        drawing.text(_LABELS - 10, y + 5, row.name, anchor="end", weight=weight)
        drawing.line(place(row.values[0]), y, place(row.values[-1]), y, stroke=fill)
        for value, radius in zip(row.values, _radii(len(names)), strict=True):
            drawing.dot(place(value), y, fill, radius=radius)
    return drawing.svg(bottom + 32)


def points(title: str, subtitle: str, given: Sequence[Point]) -> str:
    """Return points over sizes, from zero, with the lowest and the highest round of each."""
    drawing = _Drawing(title, subtitle)
    left, right, top, bottom = 60.0, WIDTH - 60.0, _TITLE + 40.0, _TITLE + 230.0
    scale = (bottom - top) / max(point.high for point in given)
    step = (right - left) / len(given)
    places = [
        (left + step * (index + 0.5), bottom - point.value * scale)
        for index, point in enumerate(given)
    ]
    drawing.line(left, bottom, right, bottom, stroke=_FAINT)
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        drawing.line(x1, y1, x2, y2, stroke=_OURS)
    for (x, y), point in zip(places, given, strict=True):
        drawing.line(x, bottom - point.low * scale, x, bottom - point.high * scale)
        drawing.dot(x, y, _OURS)
        drawing.text(x, bottom - point.high * scale - 12, point.text, anchor="middle", weight=600)
        drawing.text(x, bottom + 20, point.name, anchor="middle")
    return drawing.svg(bottom + 36)


def whole(title: str, subtitle: str, parts: Sequence[Part]) -> str:
    """Return one bar of parts, and what they are below it."""
    drawing = _Drawing(title, subtitle)
    total = sum(part.value for part in parts)
    scale = (WIDTH - 2 * _MARGIN) / total
    x = float(_MARGIN)
    y = float(_TITLE + 14)
    for index, part in enumerate(parts):
        drawing.box(x, y, part.value * scale, 34, _PARTS[min(index, len(_PARTS) - 1)])
        x += part.value * scale
    columns = 3
    width = (WIDTH - 2 * _MARGIN) / columns
    y += 62
    for index, part in enumerate(parts):
        column, row = index % columns, index // columns
        left = _MARGIN + column * width
        drawing.box(left, y + row * 26 - 11, 13, 13, _PARTS[min(index, len(_PARTS) - 1)])
        drawing.text(left + 21, y + row * 26, f"{part.name}: {part.text}")
    return drawing.svg(y + 26 * math.ceil(len(parts) / columns))


def _radii(count: int) -> Sequence[float]:
    return [6.0 - 1.5 * index for index in range(count)]
