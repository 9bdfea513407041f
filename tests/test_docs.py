"""The documents lead somewhere: each link to a file of the project, and each `make` command, is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def broken_links(path: Path) -> list[str]:
    """The targets of Markdown links and pictures that are neither elsewhere in the world nor a file of the project."""
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", path.read_text("utf-8"))
    return [link for link in links if "://" not in link and not (path.parent / link).exists()]


def unknown_commands(path: Path) -> list[str]:
    """The `make` commands, in code, that the Makefile does not have."""
    commands = re.findall(r"(?:`|^    )make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    return [command for command in commands if command not in TARGETS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_commands_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []
    assert unknown_commands(path) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#x) ![b](gone.svg) [c](https://example.org)\n`make run` and `make tea`\n    make coffee\n"
    )
    assert broken_links(page) == ["gone.svg"]
    assert unknown_commands(page) == ["tea", "coffee"]
