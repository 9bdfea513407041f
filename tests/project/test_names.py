"""A name means one thing: no two public classes share one, and no module repeats its folder's."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.source_files import sources

#: Classes that share a name, and why that is clear all the same.
SHARED: dict[str, str] = {
    "Error": "events.Error is told over WebSocket, results.Error over HTTP, as /openapi.json calls it",
    "Presence": "a client asks for it by commands.Presence and is told of it by events.Presence",
    "Read": "a client says commands.Read, others are told events.Read",
    "Rooms": "a client asks for its rooms by commands.Rooms; core.rooms.Rooms is what can be done with them",
    "Typing": "a client says commands.Typing, others are told events.Typing",
}


def public_classes(root: Path) -> dict[str, list[str]]:
    """The modules of Mercury below a root that have a public class of a name at their top level, by that name."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in sources(root, "mercury").items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    return found


def repeats(module: str) -> bool:
    """Whether a module's name says its folder's once more: stores/mysql/mysql_sql.py, workers/worker.py."""
    *_, folder, name = ["", "", *module.split(".")]
    return bool({folder, folder.removesuffix("s")} & {*name.split("_"), name})


def test_no_two_public_classes_share_a_name() -> None:
    shared = {name: modules for name, modules in public_classes(ROOT).items() if len(modules) > 1}
    assert {name: modules for name, modules in shared.items() if name not in SHARED} == {}


def test_no_module_repeats_the_name_of_its_folder() -> None:
    assert [name for name in sources(ROOT, "mercury") if repeats(name)] == []


@pytest.mark.parametrize(
    ("module", "answer"),
    [
        ("mercury.stores.mysql.mysql_sql", True),
        ("mercury.workers.worker", True),
        ("mercury.stores.mysql.sql", False),
        ("mercury.core.rooms", False),
        ("mercury.tap", False),
    ],
)
def test_a_module_that_repeats_its_folder_is_found(module: str, answer: bool) -> None:
    assert repeats(module) == answer


def test_two_classes_of_a_name_are_found(tmp_path: Path) -> None:
    (tmp_path / "mercury").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"mercury/{name}.py").write_text("class Door: ...\nclass _Own: ...\n")
    assert public_classes(tmp_path) == {"Door": ["mercury.one", "mercury.two"]}
