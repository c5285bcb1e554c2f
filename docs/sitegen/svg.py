"""Line charts with logarithmic axes, as SVG: a hundred of them take a second."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

Points = list[tuple[float, float]]
WIDTH, HEIGHT = 380, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 44
INK, FAINT = "#222832", "#d8dce3"
COLOURS = ("#0b5fa5", "#b3470b", "#1b7f4b", "#7b3fa0", "#8a6d00", "#0d7f8c", "#a32a4b", "#555555")
STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:11px;fill:#222832}"
    ".title{font-size:13px;font-weight:600}"
)


@dataclass
class Line:
    """One curve. dots: a mark at every point. dashes: as SVG has them, "" for none."""

    name: str
    points: Points
    colour: str = INK
    width: float = 1.8
    dots: bool = True
    dashes: str = ""


@dataclass
class Panel:
    """Curves that share their axes."""

    title: str
    across: str
    up: str
    lines: list[Line] = field(default_factory=list)


def _number(value: float) -> str:
    """1000 as it is, 0.0001 as a power of ten."""
    exponent = round(math.log10(value))
    if -3 <= exponent <= 3:
        return f"{value:g}"
    return f'10<tspan dy="-4" font-size="8">{exponent}</tspan>'


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two values; with their doubles and fives where they are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.3 else (1,)
    found = [step * 10.0**d for d in decades for step in steps]
    return [tick for tick in found if low <= tick * 1.0001 and tick <= high * 1.0001]


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.06, 1.1)
    return low / margin, high * margin


class _Axes:
    """Where a point of a panel is drawn."""

    def __init__(self, panel: Panel) -> None:
        points = [point for line in panel.lines for point in line.points]
        self.x = _range([x for x, _ in points])
        self.y = _range([y for _, y in points])

    def across(self, x: float) -> float:
        low, high = self.x
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / low) / math.log(high / low)

    def up(self, y: float) -> float:
        low, high = self.y
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / low) / math.log(high / low)


def _frame(panel: Panel, axes: _Axes) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [f'<text class="title" x="{LEFT}" y="18">{escape(panel.title)}</text>']
    for tick in _ticks(*axes.x):
        x = axes.across(tick)
        out.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{FAINT}"/>')
        out.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    for tick in _ticks(*axes.y):
        y = axes.up(tick)
        out.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{FAINT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    out.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="{INK}" fill="none"/>')
    middle, height = (LEFT + right) / 2, (TOP + bottom) / 2
    out.append(
        f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(panel.across)}</text>'
    )
    out.append(
        f'<text transform="translate(14 {height}) rotate(-90)" text-anchor="middle">'
        f"{escape(panel.up)}</text>"
    )
    return out


def _curve(line: Line, axes: _Axes) -> list[str]:
    places = [(axes.across(x), axes.up(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    out = [
        f'<path d="{path}" fill="none" stroke="{line.colour}" stroke-width="{line.width}"'
        f' stroke-linejoin="round"{dashes}/>'
    ]
    if line.dots:
        out += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in places
        ]
    return out


def draw(path: Path, panels: list[Panel]) -> None:
    """Panels side by side, with one legend below them."""
    named: dict[str, Line] = {}
    for panel in panels:
        for line in panel.lines:
            named.setdefault(line.name, line)
    total = WIDTH * len(panels)
    places, x, y = [], LEFT, HEIGHT + 12
    for line in named.values():
        length = 34 + 6.4 * len(line.name)
        if x + length > total:
            x, y = LEFT, y + 18
        places.append((x, y, line))
        x += length
    height = y + 12
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" width="{total}"'
        f' height="{height}"><style>{STYLE}</style>'
        f'<rect width="{total}" height="{height}" fill="white"/>'
    ]
    for i, panel in enumerate(panels):
        axes = _Axes(panel)
        out.append(f'<g transform="translate({i * WIDTH} 0)">')
        out += _frame(panel, axes)
        for line in panel.lines:
            out += _curve(line, axes)
        out.append("</g>")
    for x, y, line in places:
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        out.append(
            f'<path d="M{x} {y - 4}h20" stroke="{line.colour}" stroke-width="{line.width}"'
            f'{dashes}/><text x="{x + 25}" y="{y}">{escape(line.name)}</text>'
        )
    path.write_text("\n".join([*out, "</svg>", ""]))
