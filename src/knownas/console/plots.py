"""Small plots over days, as SVG in the page: no script, no style, and what they show in words."""

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from knownas.console.rendering import day
from knownas.history import DAY_MS

_WIDTH: Final = 240.0
_HEIGHT: Final = 64.0
_EDGE: Final = 3.0
"""Left free above and below the line, half of which would be cut off else."""


def share(name: str, days: Sequence[int], shares: Sequence[float]) -> str:
    """Return a plot of a share, 0 to 1, at the end of each of some days."""
    told = f"{shares[0]:.0%} on {day(days[0] * DAY_MS)}, {shares[-1]:.0%} on {_last(days)}"
    return _plot(f"{name}, share of profiles", told, days, shares, 1.0)


def count(name: str, days: Sequence[int], counts: Sequence[int]) -> str:
    """Return a plot of a number at the end of each of some days."""
    told = f"{counts[0]:,} on {day(days[0] * DAY_MS)}, {counts[-1]:,} on {_last(days)}"
    return _plot(name, told, days, counts, max(*counts, 1))


def _last(days: Sequence[int]) -> str:
    return day(days[-1] * DAY_MS)


def _plot(title: str, told: str, days: Sequence[int], values: Sequence[float], most: float) -> str:
    """Draw steps: what a day ended with holds until the next one that changed it."""
    span = max(days[-1] - days[0], 1)
    bottom = _HEIGHT - _EDGE
    points: list[str] = []
    y = bottom
    for number, value in zip(days, values, strict=True):
        x = (number - days[0]) / span * _WIDTH
        if points:
            points.append(f"{x:.1f},{y:.1f}")
        y = bottom - value / most * (bottom - _EDGE)
        points.append(f"{x:.1f},{y:.1f}")
    points.append(f"{_WIDTH:.1f},{y:.1f}")
    line = " ".join(points)
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'preserveAspectRatio="none" aria-label="{escape(f"{title}: {told}")}">'
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc>"
        f'<polygon class="area" points="0,{_HEIGHT:.1f} {line} {_WIDTH:.1f},{_HEIGHT:.1f}"/>'
        f'<polyline class="line" points="{line}"/></svg>'
    )
