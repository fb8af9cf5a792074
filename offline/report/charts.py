"""Charts as inline SVG: no script, no font, no network; colours come from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 540, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 26, 16, 52
RADIUS = 9
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Marker:
    """A single point with a short name in it.

    Attributes:
        x: where.
        y: where.
        name: one or two characters.
        colour: a colour of the style, `mark`, `good` or `bad`.
    """

    x: float
    y: float
    name: str
    colour: str = "mark"


class Chart:
    """A chart with both axes in per cent, from 0 to 1 across and from 0 to `top` upwards.

    Args:
        label: what is read out in place of the picture.
        x: name of the axis across.
        y: name of the axis upwards.
        top: highest value shown.
    """

    def __init__(self, label: str, *, x: str, y: str, top: float) -> None:
        self._label = label
        self._top = max(top, 1e-6)
        self._parts = [*self._axes(x, y)]
        self._text: list[str] = []

    def _place(self, x: float, y: float) -> tuple[float, float]:
        inside = min(max(y, 0.0), self._top)
        return (
            LEFT + x * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - inside / self._top * (HEIGHT - TOP - BOTTOM),
        )

    def _axes(self, x: str, y: str) -> list[str]:
        parts = []
        for share in np.linspace(0, 1, 6).tolist():
            px, py = self._place(share, 0)
            parts.append(f'<text x="{px:.0f}" y="{py + 18:.0f}" text-anchor="middle">{share:.0%}</text>')
        values = ticks(self._top)
        digits = next(d for d in range(9) if abs(round(100 * values[0], d) - 100 * values[0]) < 1e-9)
        for value in values:
            px, py = self._place(0, value)
            parts.append(f'<path class="grid" d="M{px:.0f} {py:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{px - 6:.0f}" y="{py + 4:.0f}" text-anchor="end">{value:.{digits}%}</text>')
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
        turned = f'transform="rotate(-90 12 {middle:.0f})"'
        parts.append(f'<text x="12" y="{middle:.0f}" {turned} text-anchor="middle">{escape(y)}</text>')
        return parts

    def band(self, lower: Points, upper: Points) -> None:
        """Fill between two curves."""
        outline = [self._place(*point) for point in [*lower, *reversed(upper)]]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in outline)
        self._parts.append(f'<path class="band" d="M{path}Z"/>')

    def line(self, points: Points, *, dashed: bool = False) -> None:
        """Draw a curve."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (self._place(*point) for point in points))
        self._parts.append(f'<path class="{"dashed" if dashed else "curve"}" d="M{path}"/>')

    def level(self, y: float, name: str) -> None:
        """Draw a horizontal line across, with its name at the left end."""
        x, py = self._place(0, y)
        self._parts.append(f'<path class="dashed" d="M{x:.0f} {py:.1f}H{WIDTH - RIGHT}"/>')
        self._text.append(f'<text x="{x + 6:.0f}" y="{py - 5:.1f}">{escape(name)}</text>')

    def markers(self, markers: Sequence[Marker]) -> None:
        """Draw points with their names in them; one that would hide another is drawn above it, on a stalk."""
        drawn: list[tuple[float, float]] = []
        for marker in markers:
            x, y = self._place(marker.x, marker.y)
            top = y
            while any(abs(x - a) < 2 * RADIUS and abs(top - b) < 2 * RADIUS for a, b in drawn):
                top -= 2 * RADIUS + 1
            drawn.append((x, top))
            self._text.append(
                f'<path class="axis" d="M{x:.1f} {y:.1f}V{top:.1f}"/>'
                f'<circle class="{marker.colour}" cx="{x:.1f}" cy="{top:.1f}" r="{RADIUS}"/>'
                f'<text class="name" x="{x:.1f}" y="{top + 5:.1f}" text-anchor="middle">{escape(marker.name)}</text>'
            )

    def bars(self, bars: Points, width: float) -> None:
        """Draw bars of a given width, centred, behind everything else."""
        drawn = []
        for centre, height in bars:
            (x, y), (_, zero) = self._place(centre - width / 2, height), self._place(0, 0)
            drawn.append(
                f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width * (WIDTH - LEFT - RIGHT):.1f}" '
                f'height="{zero - y:.1f}"/>'
            )
        self._parts[:0] = drawn

    def dots(self, points: Points) -> None:
        """Draw unnamed points."""
        for x, y in (self._place(*point) for point in points):
            self._parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')

    def svg(self) -> str:
        """The picture."""
        (left, bottom), right = self._place(0, 0), WIDTH - RIGHT
        axis = f'<path class="axis" d="M{left:.0f} {TOP}V{bottom:.0f}H{right}"/>'
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._label)}">'
            f"{''.join(self._parts)}{axis}{''.join(self._text)}</svg>"
        )


def ticks(top: float) -> list[float]:
    """Three to six round values in (0, top]."""
    power = 10 ** np.floor(np.log10(top / 5))
    step = next(float(s * power) for s in STEPS if s * power * 5 >= top)
    return [step * k for k in range(1, 7) if step * k <= top * (1 + 1e-9)]
