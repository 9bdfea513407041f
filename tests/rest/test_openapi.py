"""/openapi.json describes the calls that are there, all of them and as they are; so does the table in docs/rest.md.

Schemathesis reads the description as a stranger would, makes up some hundred requests from it, right and wrong ones,
and checks that each is answered as described.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.utils import getProcessOutputAndValue

from mercury.errors import CODES
from mercury.rest import shapes
from mercury.rest.openapi import CALLS, document
from tests.support.in_process_node import Node, reactor
from tests.support.paths import ROOT
from tests.support.schemathesis_hooks import THERE

REF = "#/components/schemas/"

#: The calls that were promised.
PROMISED = """
POST /api/tokens
DELETE /api/tokens
GET /api/rooms
GET /api/rooms/{room}
DELETE /api/rooms/{room}
GET /api/rooms/{room}/members
POST /api/rooms/{room}/members
DELETE /api/rooms/{room}/members
GET /api/rooms/{room}/messages
POST /api/rooms/{room}/messages
GET /api/members/{member}/rooms
GET /api/members/{member}/connections
DELETE /api/members/{member}/connections
GET /healthz
GET /readyz
GET /metrics
GET /openapi.json
GET /api/token
GET /api/token/{member}
POST /api/room/add
"""

#: Everything on; what OpenAPI cannot say: the old call needs either a query or a body.
SETTINGS = """
hooks = "tests.support.schemathesis_hooks"
seed = 20261122
warnings = false

[generation]
max-examples = 8
database = "none"

[[operations]]
include-operation-id = "old_join"
checks.positive_data_acceptance.enabled = false
"""


def refs(part: Any) -> Iterator[str]:
    """The components that a part of the description refers to."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"].removeprefix(REF)
        for value in part.values():
            yield from refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from refs(value)


def test_the_calls_are_those_that_were_promised_each_once() -> None:
    assert [f"{call.method} {call.path}" for call in CALLS] == PROMISED.strip().splitlines()
    assert len({call.name for call in CALLS}) == len(CALLS)


@ensureDeferred
async def test_what_is_described_is_routed_and_nothing_else() -> None:
    async with Node() as node:
        told = (await node.ask("GET", "/openapi.json")).json
        assert told == json.loads(json.dumps(document()))
        for path, operations in told["paths"].items():
            allowed = (await node.ask("OPTIONS", re.sub(r"{\w+}", "x", path))).headers["allow"].split(", ")
            methods = {method.upper() for method in operations}
            assert set(allowed) == methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()), path


def test_every_operation_says_what_it_takes_gives_and_means() -> None:
    told = document()
    operations = [operation for path in told["paths"].values() for operation in path.values()]
    assert len(operations) == len(CALLS)
    for operation in operations:
        assert operation["summary"].endswith(".")
        assert "200" in operation["responses"] or "201" in operation["responses"]
        for status, response in operation["responses"].items():
            (schema,) = (media["schema"] for media in response["content"].values())
            assert (schema == {"$ref": REF + "Error"}) == (int(status) >= 400)
    statuses = {int(status) for operation in operations for status in operation["responses"]}
    assert statuses == {200, 201} | {CODES[code][0] for call in CALLS for code in call.errors}


def test_every_schema_is_there_and_used() -> None:
    told = document()
    assert set(refs(told)) == set(told["components"]["schemas"])
    for call in CALLS:
        for struct in (call.body, *call.results):
            assert struct is None or struct.__name__ in told["components"]["schemas"]
    assert told["components"]["schemas"]["RevokeTokens"]["oneOf"] == shapes.RevokeTokens.rules["oneOf"]


@pytest.mark.slow
@ensureDeferred
async def test_schemathesis_finds_every_answer_as_described(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    async with Node() as node:
        for name in THERE:
            await node.chat.rooms.join(name, THERE)
            await node.chat.rooms.post(name, name, "hello")
        url = f"http://127.0.0.1:{node.port}/openapi.json"
        program = "from schemathesis.cli import schemathesis; schemathesis()"
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-c", program, "run", url], env=env, path=str(tmp_path), reactor=reactor
        )
    said = out.decode() + err.decode()
    assert code == 0, said
    generated = re.search(r"(\d+) generated", said)
    assert generated is not None, said
    assert int(generated[1]) > 10 * len(CALLS), said
