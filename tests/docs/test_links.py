"""The documents lead somewhere: each link to a file of the project, and each `make` command, is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in links, as hosts of Markdown make it of their words."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """The targets of Markdown links and pictures that are neither elsewhere in the world nor a file of the project, or
    a heading in one."""
    broken = []
    for link, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", path.read_text("utf-8")):
        page = path.parent / link if link else path
        if "://" in link:
            continue
        if not page.exists() or (anchor and page.suffix == ".md" and anchor not in anchors(page)):
            broken.append(f"{link}#{anchor}" if anchor else link)
    return broken


def unknown_commands(path: Path) -> list[str]:
    """The `make` commands, in code, that the Makefile does not have."""
    commands = re.findall(r"(?:`|^    )make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    return [command for command in commands if command not in TARGETS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_commands_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []
    assert unknown_commands(path) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# What it is: x\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#what-it-is-x) ![b](gone.svg) [c](https://example.org#x) [d](there.md#y) [e](#z)\n"
        "`make run` and `make tea`\n    make coffee\n"
    )
    assert broken_links(page) == ["gone.svg", "there.md#y", "#z"]
    assert unknown_commands(page) == ["tea", "coffee"]
