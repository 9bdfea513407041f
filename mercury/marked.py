"""Pages of the documentation in which a part is made from the code: it stands between two marks."""

from __future__ import annotations

from pathlib import Path


def with_part(text: str, begin: str, end: str, made: str, page: Path) -> str:
    """The page's text with `made` between its marks. ValueError, naming the page, if it has lost them."""
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"{page} has lost the marks between which a part of it is made")
    return before + begin + made + end + after
