"""Imports run downwards only; the core knows no library of the edges; every file says what it is for and is short.

The order stands below as docs/design.md has it. A module in no layer is a complaint too: whoever adds one says where
it belongs. The rules are read from the source, so imports within functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 450

#: From the top down. A module may import its own layer and those below.
LAYERS = (
    {
        "mercury.__main__",
        "mercury.manual",
        "mercury.tap",
        "mercury.service",
        "mercury.epoll",
        "mercury.garbage",
        "mercury.listening",
        "mercury.reloading",
        "mercury.systemd",
        "mercury.options",
        "mercury.admin",
        "mercury.keys",
        "mercury.tool",
    },
    {"mercury.settings", "mercury.logs", "mercury.reference"},
    {"mercury.transports"},
    {"mercury.protocols"},
    {"mercury.core"},
    {"mercury.ports", "mercury.counts", "mercury.closing"},
    {"mercury.commands", "mercury.events", "mercury.signals"},
    {"mercury.model"},
    {"mercury.config", "mercury.config_limits", "mercury.config_stores", "mercury.config_types"},
    {"mercury.errors", "mercury.marked", "mercury.serving"},
    {"mercury"},  # the version
)

#: Beside the layers: what these may import of Mercury beside themselves, and who may import them.
ASIDE = {
    "mercury.backends": (
        {
            "mercury.ports",
            "mercury.counts",
            "mercury.signals",
            "mercury.model",
            "mercury.errors",
            "mercury.serving",
        },
        {"mercury.tap", "mercury.admin", "mercury.keys", "mercury.manual"},
    ),
    "mercury.client": (
        {"mercury.commands", "mercury.events", "mercury.model", "mercury.errors", "mercury.closing", "mercury"},
        {"mercury.manual"},
    ),
}

#: What may be imported only by some; a driver belongs to its backend, a framework to its transport.
KEPT_TO = {
    "argon2": {"mercury.core"},
    "autobahn": {"mercury.transports", "mercury.protocols", "mercury.client"},
    "cryptography": {"mercury.backends"},
    "klein": {"mercury.transports"},
    "prometheus_client": {"mercury.transports"},
    "prompt_toolkit": {"mercury.client"},
    "service_identity": {"mercury.backends"},
    "pymysql": {"mercury.backends"},
    "sqlite3": {"mercury.backends"},
    "twisted.enterprise": {"mercury.backends"},
    "txredisapi": {"mercury.backends"},
    "twisted.web": {"mercury.transports", "mercury.client"},
    "yaml": {"mercury.config", "mercury.settings"},
}

#: May import the reactor, and only within a function: all others are given it.
REACTOR = {"mercury.tap", "mercury.client"}


def package(name: str) -> str:
    """The layer's name for a module: `mercury.core` for `mercury.core.hub`."""
    return ".".join(name.split(".")[:2])


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def sources(root: Path) -> dict[str, Path]:
    """Mercury's modules below a root, by name."""
    found = {}
    for path in sorted(root.glob("mercury/**/*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[tuple[str, bool]]:
    """The modules that one imports, wherever in the file, and whether that is done at its top level."""
    tree = ast.parse(path.read_text("utf-8"))
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


def complaints(root: Path) -> list[str]:
    """All that is wrong with the imports of the Mercury below a root."""
    found = []
    modules = sources(root)
    graph: dict[str, set[str]] = {}
    ranks = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
    for name, path in modules.items():
        own = package(name)
        if own not in ranks and own not in ASIDE:
            found.append(f"{name} is in no layer: give it a place in LAYERS")
            continue
        for target, at_top in imports(name, path, set(modules)):
            other = package(target)
            if within(target, "mercury"):
                graph.setdefault(name, set()).add(target)
                if other == own:
                    continue
                if other in ASIDE:
                    allowed = own in ASIDE[other][1]
                elif own in ASIDE:
                    allowed = other in ASIDE[own][0]
                else:
                    allowed = ranks.get(other, -1) >= ranks[own]
                if not allowed:
                    found.append(f"{name} imports {target}, which it must not know")
            elif target == "twisted.internet.reactor" and (at_top or own not in REACTOR):
                found.append(f"{name} imports the reactor: take it as a parameter")
            for library, owners in KEPT_TO.items():
                if within(target, library) and own not in owners:
                    found.append(f"{name} imports {target}, which is kept to {', '.join(sorted(owners))}")
    for name in graph:
        graph[name].discard(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"these import each other in a circle: {' -> '.join(error.args[1])}")
    return found


def untidy(path: Path) -> list[str]:
    """What is wrong with one file as a thing to read."""
    text = path.read_text("utf-8")
    found = []
    if not ast.get_docstring(ast.parse(text)):
        found.append(f"{path} does not begin with a docstring that says what it is for")
    if (lines := text.count("\n")) > LONGEST:
        found.append(f"{path} has {lines} lines; more than {LONGEST} is two files")
    return found


def test_mercury_keeps_to_its_layers() -> None:
    assert complaints(ROOT) == []


def test_every_file_says_what_it_is_for_and_is_short() -> None:
    files = [
        ROOT / "setup.py",
        *(p for top in ("mercury", "tests", "bench", "twisted") for p in ROOT.glob(f"{top}/**/*.py")),
    ]
    assert len(files) > len(sources(ROOT))
    assert [line for path in files for line in untidy(path)] == []


MADE_UP = [
    ("mercury/core/hub.py", "from mercury.transports import rest", "mercury.core.hub imports mercury.transports"),
    ("mercury/core/hub.py", "from ..transports import rest", "mercury.core.hub imports mercury.transports"),
    ("mercury/core/hub.py", "def f():\n    import mercury.tap", "mercury.core.hub imports mercury.tap"),
    ("mercury/core/hub.py", "if TYPE_CHECKING:\n    from mercury import tap", "mercury.core.hub imports mercury.tap"),
    ("mercury/core/hub.py", "def f():\n    from autobahn.twisted import websocket", "kept to"),
    ("mercury/core/hub.py", "from klein import Klein", "kept to mercury.transports"),
    ("mercury/core/hub.py", "import sqlite3", "kept to mercury.backends"),
    ("mercury/tap.py", "def f():\n    from pymysql.err import Error", "kept to mercury.backends"),
    ("mercury/core/hub.py", "def f():\n    from twisted.internet import reactor", "imports the reactor"),
    ("mercury/core/hub.py", "from mercury.backends import sqlite", "mercury.core.hub imports mercury.backends"),
    ("mercury/core/hub.py", "from mercury.core import rooms", "in a circle: mercury.core."),
    ("mercury/tap.py", "import twisted.internet.reactor", "imports the reactor"),
    ("mercury/errors.py", "from mercury.model import Entry", "mercury.errors imports mercury.model"),
    (
        "mercury/backends/sqlite.py",
        "from mercury.events import Message",
        "mercury.backends.sqlite imports mercury.events",
    ),
    ("mercury/client/main.py", "from mercury.core.hub import Hub", "mercury.client.main imports mercury.core.hub"),
    ("mercury/core/hub.py", "from mercury.client import main", "mercury.core.hub imports mercury.client.main"),
    ("mercury/stuff.py", "", "mercury.stuff is in no layer"),
]


def make_up(root: Path) -> None:
    """A small Mercury that keeps to the rules."""
    good = {
        "tap.py": "from mercury.backends import sqlite\ndef f():\n    from twisted.internet import reactor",
        "transports/rest.py": "from klein import Klein\nfrom ..core.rooms import Rooms",
        "core/hub.py": "from mercury import __version__, errors, model",
        "core/rooms.py": "from . import hub\nfrom mercury.core import hub",
        "backends/sqlite.py": "import sqlite3\nfrom mercury.ports import IStore",
        "client/main.py": "from mercury.events import Message\nimport prompt_toolkit",
        "__init__.py": "",
    }
    good |= dict.fromkeys(("ports.py", "events.py", "model.py", "errors.py", "core/__init__.py"), "")
    for name, body in good.items():
        path = root / "mercury" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Made up."""\n{body}\n')


def test_a_tidy_tree_brings_no_complaint(tmp_path: Path) -> None:
    make_up(tmp_path)
    assert complaints(tmp_path) == []


@pytest.mark.parametrize(("name", "body", "complaint"), MADE_UP)
def test_each_violation_is_found(name: str, body: str, complaint: str, tmp_path: Path) -> None:
    make_up(tmp_path)
    (tmp_path / name).write_text(body)
    found = complaints(tmp_path)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("body", "complaint"), [("x = 1\n", "docstring"), ('"""It is long."""\n' + "\n" * 450, "451 lines")]
)
def test_an_untidy_file_is_found(body: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "made_up.py"
    path.write_text(body)
    (found,) = untidy(path)
    assert complaint in found
