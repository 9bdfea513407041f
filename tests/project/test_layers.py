"""Imports run downwards only; the core knows no library of the edges; every file says what it is for and is short.

The order of the layers stands below. A folder in no layer is a complaint, too: whoever adds one says where it
belongs. The rules are read from the source, so imports within functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.source_files import circle, imports, sources

LONGEST = 450  # lines of a file
SCREEN = 60  # lines of a function

#: From the top down. A folder, or a module that lies in mercury/ itself, may import its own layer and those below.
LAYERS = (
    ("tap", "reference"),
    ("cli",),
    ("workers",),
    ("node",),
    ("rest",),
    ("gotalk",),
    ("http", "websocket"),
    ("net",),
    ("core", "bus"),
    ("stores",),
    ("interfaces",),
    ("settings",),
    ("domain",),
    ("errors",),
    ("__init__",),  # the version
)

#: Narrower than the layers: all of Mercury that these may import, beside themselves.
ONLY = {
    "bus": {"stores", "interfaces", "domain", "errors"},
    "stores": {"interfaces", "domain", "errors"},
    "client": {"domain", "errors", "__init__"},
}

#: Who may import these, though they lie below nobody else.
BY_ONLY = {
    "bus": {"node", "cli"},
    "stores": {"node", "cli", "bus"},
    "client": {"reference"},
}

#: What may be imported only by some: a driver by its store, a framework by what it serves.
KEPT_TO = {
    "argon2": {"gotalk"},
    "autobahn": {"websocket", "client"},
    "cryptography": {"stores"},
    "klein": {"http", "rest", "gotalk"},
    "prometheus_client": {"rest"},
    "prompt_toolkit": {"client"},
    "service_identity": {"stores"},
    "pymysql": {"stores", "bus"},
    "sqlite3": {"stores"},
    "twisted.enterprise": {"stores"},
    "txredisapi": {"stores", "bus"},
    "twisted.web": {"http", "rest", "gotalk", "websocket", "client"},
    "yaml": {"settings"},
}

#: May import the reactor, and only within a function: all others are given it.
REACTOR = {"tap", "node", "client"}

RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def package(name: str) -> str:
    """What has a place in the layers: `core` for `mercury.core.rooms`."""
    return [*name.split("."), "__init__"][1]


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def may_import(own: str, other: str) -> bool:
    """Whether one part of Mercury may import another one."""
    if own == other:
        return True
    if own in ONLY and other not in ONLY[own]:
        return False
    if other in BY_ONLY:
        return own in BY_ONLY[other]
    return own in ONLY or RANKS.get(other, -1) >= RANKS[own]


def complaints(root: Path) -> list[str]:
    """All that is wrong with the imports of the Mercury below a root."""
    found = []
    modules = sources(root, "mercury")
    for name, path in modules.items():
        own = package(name)
        if own not in RANKS and own not in ONLY:
            found.append(f"{name} is in no layer: give {own} a place in LAYERS")
            continue
        for target, at_top in imports(name, path, set(modules)):
            if within(target, "mercury"):
                if not may_import(own, package(target)):
                    found.append(f"{name} imports {target}, which it must not know")
            elif target == "twisted.internet.reactor" and (at_top or own not in REACTOR):
                found.append(f"{name} imports the reactor: take it as a parameter")
            for library, owners in KEPT_TO.items():
                if within(target, library) and own not in owners:
                    found.append(f"{name} imports {target}, which is kept to {', '.join(sorted(owners))}")
    if found_circle := circle(modules):
        found.append(f"these import each other in a circle: {found_circle}")
    return found


def untidy(path: Path) -> list[str]:
    """What is wrong with one file as a thing to read."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    found = []
    if not ast.get_docstring(tree):
        found.append(f"{path} does not begin with a docstring that says what it is for")
    if (lines := text.count("\n")) > LONGEST:
        found.append(f"{path} has {lines} lines; more than {LONGEST} is two files")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = 1 + (node.end_lineno or node.lineno) - node.lineno
            if lines > SCREEN:
                found.append(f"{path}: {node.name} has {lines} lines; more than {SCREEN} is two functions")
    return found


def borrowed(root: Path) -> list[str]:
    """Who imports from a test module; what several need belongs into tests/support/."""
    modules = sources(root, "tests")
    found = [(name, other) for name, path in modules.items() for other, _ in imports(name, path, set(modules))]
    return [f"{name} imports {other}" for name, other in found if other.rpartition(".")[2].startswith("test_")]


def test_mercury_keeps_to_its_layers() -> None:
    assert complaints(ROOT) == []


def test_the_tools_around_it_import_each_other_in_no_circle() -> None:
    assert circle(sources(ROOT, "mercury", "tests", "bench", "tools")) == ""


def test_no_test_module_is_imported() -> None:
    assert borrowed(ROOT) == []


def test_every_file_says_what_it_is_for_and_is_short() -> None:
    files = [
        ROOT / "setup.py",
        *sources(ROOT, "mercury", "tests", "bench", "tools", "docs", "twisted").values(),
    ]
    assert len(files) > len(sources(ROOT, "mercury"))
    assert [line for path in files for line in untidy(path)] == []


MADE_UP = [
    ("core/rooms.py", "from mercury.rest import site", "mercury.core.rooms imports mercury.rest"),
    ("core/rooms.py", "from ..rest import site", "mercury.core.rooms imports mercury.rest"),
    ("core/rooms.py", "def f():\n    import mercury.tap", "mercury.core.rooms imports mercury.tap"),
    ("core/rooms.py", "if TYPE_CHECKING:\n    from mercury import tap", "mercury.core.rooms imports mercury.tap"),
    ("core/rooms.py", "def f():\n    from autobahn.twisted import websocket", "kept to"),
    ("core/rooms.py", "from klein import Klein", "kept to gotalk, http, rest"),
    ("core/rooms.py", "import sqlite3", "kept to stores"),
    ("tap.py", "def f():\n    from pymysql.err import Error", "kept to bus, stores"),
    ("core/rooms.py", "def f():\n    from twisted.internet import reactor", "imports the reactor"),
    ("core/rooms.py", "from mercury.stores import sqlite", "mercury.core.rooms imports mercury.stores"),
    ("core/delivery/hub.py", "from mercury.core import rooms", "in a circle: mercury.core."),
    ("tap.py", "import twisted.internet.reactor", "imports the reactor"),
    ("errors.py", "from mercury.domain.model import Entry", "mercury.errors imports mercury.domain.model"),
    ("stores/sqlite/store.py", "from mercury.settings import schema", "store imports mercury.settings"),
    ("stores/sqlite/store.py", "from mercury.bus import local", "store imports mercury.bus.local"),
    ("bus/local.py", "from mercury.core.rooms import Rooms", "mercury.bus.local imports mercury.core.rooms"),
    ("client/main.py", "from mercury.core.rooms import Rooms", "mercury.client.main imports mercury.core.rooms"),
    ("core/rooms.py", "from mercury.client import main", "mercury.core.rooms imports mercury.client"),
    ("stuff.py", "", "mercury.stuff is in no layer"),
]


def make_up(root: Path) -> None:
    """A small Mercury that keeps to the rules."""
    good = {
        "tap.py": "from mercury.node import build\ndef f():\n    from twisted.internet import reactor",
        "node/build.py": "from mercury.stores.sqlite import store\nfrom mercury.bus import local",
        "rest/site.py": "from klein import Klein\nfrom ..core.rooms import Rooms",
        "core/delivery/hub.py": "from mercury import __version__, errors\nfrom mercury.domain import model",
        "core/rooms.py": "from .delivery import hub\nfrom mercury.core.delivery import hub",
        "stores/sqlite/store.py": "import sqlite3\nfrom mercury.interfaces import IStore",
        "client/main.py": "from mercury.domain.events import Message\nimport prompt_toolkit",
        "bus/local.py": "from mercury.stores.sqlite import store",
        "__init__.py": "",
    }
    good |= dict.fromkeys(("interfaces.py", "domain/events.py", "domain/model.py", "errors.py", "core/__init__.py"), "")
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
    (tmp_path / "mercury" / name).write_text(body)
    found = complaints(tmp_path)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("x = 1\n", "docstring"),
        ('"""It is long."""\n' + "\n" * 450, "451 lines"),
        ('"""It has a long function."""\n\ndef f():\n' + "    1\n" * 60, "f has 61 lines"),
    ],
)
def test_an_untidy_file_is_found(body: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "made_up.py"
    path.write_text(body)
    (found,) = untidy(path)
    assert complaint in found


@pytest.mark.parametrize(
    "body",
    ["from tests.core.test_rooms import Bus", "from . import test_rooms", "def f():\n    import tests.core.test_rooms"],
)
def test_an_imported_test_module_is_found(body: str, tmp_path: Path) -> None:
    folder = tmp_path / "tests/core"
    folder.mkdir(parents=True)
    (folder / "test_rooms.py").write_text("from tests.support import clockwork")
    assert borrowed(tmp_path) == []
    (folder / "test_walks.py").write_text(body)
    assert borrowed(tmp_path) == ["tests.core.test_walks imports tests.core.test_rooms"]
