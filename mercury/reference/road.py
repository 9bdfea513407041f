"""The road of one message in docs/design.md: the tables made from docs/road.json, which `make road` measures."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Final, NamedTuple

from mercury.reference.modules import ROOT, cell, first_sentence

DATA: Final = ROOT / "docs/road.json"
INTERFACES: Final = "mercury/interfaces.py"


class Step(NamedTuple):
    """An entry into a function of Mercury's. `beside`: in another thread than the reactor's, the store's."""

    file: str
    function: str
    beside: bool = False


class Station(NamedTuple):
    """Calls in the same file, one after the other. `number`: its place on the road, `7`, or in a thread `7a`."""

    number: str
    file: str
    functions: list[str]


#: The calls that a message was seen to cause in one process, in their order.
Road = Sequence[Step]


class Profile(NamedTuple):
    """What was seen of a message: on a node with SQLite; and on the sender's and on the receiver's of two nodes that
    share a Redis."""

    node: Road
    sender: Road
    receiver: Road


def read(path: Path = DATA) -> Profile:
    """The profile that was measured last."""
    found = json.loads(path.read_text("utf-8"))
    return Profile(**{name: [Step(*call) for call in found[name]] for name in Profile._fields})


def write(profile: Profile, path: Path = DATA) -> None:
    """Keep a profile, a call a line."""
    parts = []
    for name, road in profile._asdict().items():
        calls = ",\n".join(f"  {json.dumps(call if call.beside else call[:2])}" for call in road)
        parts.append(f"{json.dumps(name)}: [\n{calls}\n]")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def stations(road: Road) -> list[Station]:
    """The stations of a road; each names its functions once."""
    found: list[Station] = []
    number, letters = 0, iter("")
    for (file, beside), run in groupby(road, lambda call: (call.file, call.beside)):
        if not beside:
            number, letters = number + 1, iter(ascii_lowercase)
        functions = list(dict.fromkeys(call.function for call in run))
        found.append(Station(f"{number}{next(letters) if beside else ''}", file, functions))
    return found


def files(road: Road) -> list[str]:
    """The files, in the order in which the message reaches them first."""
    return list(dict.fromkeys(call.file for call in road))


def in_reactor(road: Road) -> Road:
    """The part of it that runs in the reactor's thread."""
    return [call for call in road if not call.beside]


def changes(road: Road) -> int:
    """How often a function is entered that stands in another file than the one before."""
    return sum(before.file != after.file for before, after in pairwise(road))


def tables() -> dict[str, str]:
    """All tables, by the names of their sections."""
    return {"road": one_node(), "road-sender": sender(), "road-receiver": receiver(), "road-figures": figures()}


def figures() -> str:
    """How long the roads are."""
    profile = read()
    both = [*profile.sender, *profile.receiver]
    rows = [
        ("one node, SQLite", in_reactor(profile.node)),
        ("the same, in the store's thread", [call for call in profile.node if call.beside]),
        ("two nodes, Redis: the sender's", profile.sender),
        ("two nodes, Redis: the receiver's", profile.receiver),
        ("two nodes, Redis: both", both),
    ]
    lines = ["| | calls | functions | files | changes of file |", "|---|---:|---:|---:|---:|"]
    for name, road in rows:
        lines.append(f"| {name} | {len(road)} | {len(set(road))} | {len(files(road))} | {changes(road)} |")
    return "\n".join(lines) + "\n"


def one_node() -> str:
    """The stations on one node."""
    return _table(stations(read().node))


def sender() -> str:
    """The stations on the sender's node that a node without others does not have."""
    profile = read()
    known = set(files(in_reactor(profile.node)))
    return _table(station for station in stations(profile.sender) if station.file not in known)


def receiver() -> str:
    """The stations on the receiver's node."""
    return _table(stations(read().receiver))


def _table(rows: Iterable[Station]) -> str:
    lines = ["| | file | functions | what happens |", "|---|---|---|---|"]
    for number, file, functions in rows:
        names = ", ".join(dict.fromkeys(f"`{spoken(name)}`" for name in functions))
        lines.append(f"| {number} | `{file.removeprefix('mercury/')}` | {names} | {cell(meaning(file, functions))} |")
    return "\n".join(lines) + "\n"


def spoken(function: str) -> str:
    """A function's name for people: a closure's or lambda's is the name of the function that makes it."""
    return re.sub(r"\.<locals>(\.<lambda>)?", "", function).replace(".__init__", "")


def meaning(file: str, functions: Iterable[str]) -> str:
    """What happens: the docstring of the first of these functions that has one, or for which its interface has one."""
    for function in functions:
        name = function.replace(".<locals>", "")
        if found := docstrings(file).get(name) or _of_interface(file, name):
            return found
    return ""


def _of_interface(file: str, name: str) -> str:
    owner, _, method = name.rpartition(".")
    known = docstrings(INTERFACES)
    return next((known.get(f"{one}.{method}", "") for one in implemented(file).get(owner, ())), "")


@cache
def docstrings(file: str) -> dict[str, str]:
    """The first sentences of a file's functions, by their names within it; "" where one says nothing."""
    return dict(_named(ast.parse((ROOT / file).read_text("utf-8")), ""))


def _named(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}", first_sentence(ast.get_docstring(node) or "")
            yield from _named(node, f"{prefix}{node.name}.")
        else:
            yield from _named(node, prefix)


@cache
def implemented(file: str) -> dict[str, list[str]]:
    """The interfaces that a file's classes declare by @implementer."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "implementer":
                    found[node.name] = [ast.unparse(argument) for argument in call.args]
    return found
