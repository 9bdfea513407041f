"""The tables of docs/metrics.md, made from mercury/rest/metrics.py."""

from __future__ import annotations

from mercury.domain.counters import CAUSES
from mercury.errors import LIMITS
from mercury.rest.metrics import METRICS


def tables() -> str:
    """The metrics, and what their labels may be, as Markdown."""
    parts = ["| metric | kind | label | meaning |\n|---|---|---|---|\n"]
    for metric in METRICS:
        label = f"`{metric.label}`" if metric.label else ""
        parts.append(f"| `{metric.name}` | {metric.kind} | {label} | {metric.meaning} |\n")
    for title, words in (("cause", CAUSES), ("limit", LIMITS)):
        parts.append(f"\n| {title} | what |\n|---|---|\n")
        parts += [f"| `{name}` | {meaning} |\n" for name, meaning in words.items()]
    return "".join(parts)
