"""The map of all modules in docs/design.md: each with the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, on one line, without its full stop."""
    text = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`(])", text)[0].removesuffix(".")


def purpose(path: Path) -> str:
    """What a module is for, as it says itself."""
    return first_sentence(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")


def table() -> str:
    """One row a module, by folder; each folder begins with what its `__init__.py` says of it."""
    return "\n".join(["| module | what it is for |", "|---|---|", *_rows(ROOT / "mercury")]) + "\n"


def _rows(folder: Path) -> Iterator[str]:
    yield f"| **{folder.relative_to(ROOT).as_posix()}/** | **{cell(purpose(folder / '__init__.py'))}** |"
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield f"| `{path.relative_to(ROOT / 'mercury').as_posix()}` | {cell(purpose(path))} |"
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").exists():
            yield from _rows(inner)


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", "\\|")
