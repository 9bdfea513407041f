"""CONTRIBUTING.md's first change can be made as it is written: the lines that it changes are there."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")

#: What the change adds to the lines that the page shows.
ADDED = ('"entries": 1, ', "    entries: int\n", "    entries = room.head - room.floor\n", "entries, ")


def before(block: str) -> str:
    """A block of the page as it is before the change."""
    for words in ADDED:
        block = block.replace(words, "")
    return block


def test_the_lines_that_the_first_change_changes_are_there() -> None:
    expected, fields, function = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert all(before(block) != block for block in (expected, fields, function))
    assert before(expected) in (ROOT / "tests/rest/test_calls.py").read_text("utf-8")
    shapes = (ROOT / "mercury/rest/shapes.py").read_text("utf-8")
    assert before(fields) in shapes.partition("class RoomInfo(Result):")[2]
    assert shapes.endswith(before(function))


def test_the_files_and_tests_that_the_page_names_are_there() -> None:
    for name in re.findall(r"`((?:mercury|tests|requirements)/[\w/.]+)`|\b(tests/[\w/]+\.py)\b", PAGE):
        assert (ROOT / (name[0] or name[1])).exists(), name
    for name in re.findall(r"\btest_[a-z_]+\b(?!\.py)", PAGE):
        assert any(f"def {name}(" in path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")), name
