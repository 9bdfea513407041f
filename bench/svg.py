"""Charts as SVG text: groups of bars that start at zero, with the value at the end; and lines."""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 780, 150, 60, 18, 20, 46
OURS, RIVAL, FLOOR = "#2b6cb0", "#dd8a1f", "#cbd5e0"
LINES = ("#2b6cb0", "#63b3ed", "#c05621", "#f6ad55", "#9aa5b1", "#38a169")


def short(value: float) -> str:
    """1234567 as 1.23M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def heading(title: str, height: int) -> str:
    """How every picture begins."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="12" fill="#1a202c">'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
        f'<text x="16" y="22" font-size="15" font-weight="bold">{escape(title)}</text>'
    )


def bars(title: str, groups: list[tuple[str, list[tuple[str, float, str]]]]) -> str:
    """A chart of groups, each with a heading, a scale of its own, and bars: label, value, colour."""
    body: list[str] = []
    y = TOP
    for label, row in groups:
        scale = (WIDTH - LEFT - RIGHT) / max(value for _, value, _ in row)
        body.append(f'<text x="16" y="{y + 4}" font-weight="bold">{escape(label)}</text>')
        y += BAR
        for name, value, colour in row:
            width = value * scale
            body.append(f'<text x="{LEFT - 10}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
            body.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{colour}"/>')
            body.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 12}">{short(value)}</text>')
            y += BAR
        y += GAP
    return "\n".join([heading(title, y), *body, "</svg>\n"])


def curves(title: str, places: list[str], lines: list[tuple[str, list[float]]]) -> str:
    """A line chart: a value for each of the `places`, from left to right, on a logarithmic axis of powers of ten."""
    values = [value for _, line in lines for value in line if value > 0]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    left, right, top, bottom = 60, WIDTH - 20, 50 + 18 * len(lines), 380 + 18 * len(lines)

    def x_of(place: int) -> float:
        return left + (right - left) * (place + 0.5) / len(places)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (log10(max(value, 10**low)) - low) / (high - low)

    body: list[str] = []
    for value in [step * 10.0**power for power in range(low, high) for step in (1, 2, 5)] + [10.0**high]:
        y = y_of(value)
        body.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        body.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for place, name in enumerate(places):
        body.append(f'<text x="{x_of(place):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>')
    for i, (name, line) in enumerate(lines):
        points = " ".join(f"{x_of(place):.1f},{y_of(value):.1f}" for place, value in enumerate(line))
        body.append(f'<polyline points="{points}" fill="none" stroke="{LINES[i]}" stroke-width="2"/>')
        body.append(f'<rect x="{left}" y="{34 + 18 * i}" width="12" height="12" fill="{LINES[i]}"/>')
        body.append(f'<text x="{left + 18}" y="{45 + 18 * i}">{escape(name)}</text>')
    return "\n".join([heading(title, bottom + 32), *body, "</svg>\n"])
