"""The parts of Markdown pages that are made from the code. Each stands between two marks, which name it."""

from __future__ import annotations

END = "<!-- end of generated section -->\n"


def with_section(text: str, name: str, made: str) -> str:
    """The page's text with `made` in its section `name`. ValueError if the page has lost the marks."""
    begin = f"<!-- generated section: {name}; `python -m mercury.reference` writes it -->\n"
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"markers of the generated section {name} not found")
    return before + begin + made + END + after
