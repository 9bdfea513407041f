"""The private members of libraries that Mercury uses: an upgrade that takes one away fails here, by its name.

Each is used for a measured reason, which stands where it is used. A new one has to be added to the table below.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.enterprise import adbapi
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.tcp import Connection
from twisted.protocols.basic import LineReceiver
from twisted.protocols.haproxy import _wrapper as haproxy_wrapper
from twisted.web.http import HTTPChannel, Request
from txredisapi import RedisProtocol

from tests.support.paths import ROOT

#: Which file uses which private members of what.
USED: Final[list[tuple[str, Any, str]]] = [
    ("bus/redis_subscriber.py", RedisProtocol, "_build_command"),
    ("gotalk/receipts.py", HTTPChannel, "_dataBuffer"),
    ("gotalk/receipts.py", Request, "_disconnected"),
    ("http/server.py", LineReceiver, "_buffer"),
    ("http/server.py", HTTPChannel, "_dataBuffer _handlingRequest _networkProducer _savedTimeOut _waitingForTransport"),
    ("http/server.py", HTTPChannel, "_respondToBadRequestAndDisconnect"),
    ("net/direct_write.py", Connection, "_tempDataBuffer _tempDataLen"),
    ("net/direct_write.py", haproxy_wrapper, "HAProxyProtocolWrapper"),
    ("node/process.py", EPollReactor, "_exitSignal"),
    ("node/tuning.py", EPollReactor, "_disconnectSelectable _doReadOrWrite _poller _selectables"),
    ("reference/manual.py", argparse.ArgumentParser, "_actions"),
    ("stores/mysql/server.py", adbapi.Connection, "_connection _pool"),
    ("stores/pool.py", adbapi.ConnectionPool, "_reactor"),
    ("websocket/connection.py", WebSocketServerProtocol, "_closeConnection"),
    ("websocket/handshake.py", WebSocketServerProtocol, "_perMessageCompress"),
    ("websocket/fast/handshake.py", WebSocketProtocol, "_connectionMade _transport_details"),
    ("websocket/fast/handshake.py", WebSocketServerFactory, "_batched_timer"),
    ("websocket/fast/handshake.py", WebSocketServerProtocol, "_onOpen _parseExtensionsHeader _wskey"),
]

PUBLIC: Final = {
    "_asdict",
    "_exit",
    "_fields",
    "_replace",
}  # documented, of os and of named tuples

CASES = [(file, owner, name) for file, owner, names in USED for name in names.split()]


def words(owner: Any) -> set[str]:
    """All words in the source of a module, or of a class and those that it builds on."""
    parts = (
        [owner]
        if inspect.ismodule(owner)
        else [part for part in owner.__mro__ if part.__module__ not in ("builtins", "typing")]
    )
    return {word for part in parts for word in re.findall(r"\w+", inspect.getsource(part))}


@pytest.mark.parametrize(("file", "owner", "name"), CASES)
def test_the_library_still_has_it(file: str, owner: Any, name: str) -> None:
    assert name in words(owner), f"mercury/{file} uses {name} of {owner.__name__}, which has it no more"


@pytest.mark.parametrize(("file", "owner", "name"), CASES)
def test_the_table_lists_nothing_that_is_not_used(file: str, owner: Any, name: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / "mercury" / file).read_text("utf-8"))


def private(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """The private names in a module, and whether each is made there."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, True
            case ast.Name(id=name, ctx=ast.Store()) | ast.Constant(value=str(name)):  # __slots__ has strings
                yield name, True
            case ast.Attribute(attr=name, value=value, ctx=context):
                is_own = isinstance(value, ast.Name) and value.id == "self" and isinstance(context, ast.Store)
                yield name, is_own


def test_the_table_lists_all() -> None:
    """Every private member that is made nowhere in Mercury."""
    used: dict[str, set[str]] = {}
    made = set(PUBLIC)
    for path in ROOT.glob("mercury/**/*.py"):
        file = str(path.relative_to(ROOT / "mercury"))
        for name, is_own in private(ast.parse(path.read_text("utf-8"))):
            if re.match("_[a-zA-Z]", name):
                made.update([name] if is_own else [])
                used.setdefault(file, set()).add(name)
    listed = {(file, name) for file, _, name in CASES}
    strange = {(file, name) for file, names in used.items() for name in names - made}
    assert strange <= listed
