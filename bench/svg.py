"""A bar chart as SVG text: groups of bars that start at zero, the value at the end of each bar."""

from __future__ import annotations

from html import escape

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 780, 280, 60, 18, 14, 62
COLOURS = ("#2b6cb0", "#dd8a1f", "#9aa5b1")


def short(value: float) -> str:
    """1234567 as 1.23M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def bars(title: str, series: list[str], groups: list[tuple[str, list[float | None]]]) -> str:
    """A chart of `groups`, each with one value for each of the `series`; None leaves that bar out."""
    highest = max(value for _, row in groups for value in row if value is not None)
    scale = (WIDTH - LEFT - RIGHT) / highest
    body: list[str] = []
    y = TOP
    for label, row in groups:
        present = [(i, value) for i, value in enumerate(row) if value is not None]
        middle = y + len(present) * BAR / 2
        body.append(f'<text x="{LEFT - 10}" y="{middle + 3:.0f}" text-anchor="end">{escape(label)}</text>')
        for i, value in present:
            width = value * scale
            body.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{COLOURS[i]}"/>')
            body.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 12}">{short(value)}</text>')
            y += BAR
        y += GAP
    legend = [
        f'<rect x="{LEFT + 120 * i}" y="34" width="12" height="12" fill="{COLOURS[i]}"/>'
        f'<text x="{LEFT + 120 * i + 18}" y="45">{escape(name)}</text>'
        for i, name in enumerate(series)
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
        ' font-family="sans-serif" font-size="12" fill="#1a202c">'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
        f'<text x="16" y="22" font-size="15" font-weight="bold">{escape(title)}</text>'
    )
    return "\n".join([head, *legend, *body, "</svg>\n"])
