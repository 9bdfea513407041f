"""The project's Python files, as the tests of tests/project/ read them: which there are, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def sources(root: Path, *tops: str) -> dict[str, Path]:
    """The modules below these folders of a root, by name."""
    found = {}
    for path in sorted(path for top in tops for path in root.glob(f"{top}/**/*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    """A file of the project, read once for all tests."""
    return ast.parse(path.read_text("utf-8"))


def imports(name: str, path: Path, known: set[str]) -> Iterator[tuple[str, bool]]:
    """The modules that one imports, wherever in the file, and whether that is done at its top level."""
    tree = parsed(path)
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            base = parts[: len(parts) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                is_module = full in known or full == "twisted.internet.reactor"
                yield full if is_module else origin, node not in inner


def circle(modules: Mapping[str, Path]) -> str:
    """Modules that import each other in a circle, if there are any, else an empty text."""
    graph = {
        name: {target for target, _ in imports(name, path, set(modules)) if target in modules and target != name}
        for name, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return ""
