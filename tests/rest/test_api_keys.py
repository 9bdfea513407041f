"""API keys: who may call REST when some are configured, and how they are made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as installed

from mercury.client.rest import RestClient, ServerAddress
from mercury.errors import MercuryError
from mercury.rest.api_keys import new_key
from mercury.settings.types import api_keys
from tests.support.in_process_node import Node
from tests.support.paths import ROOT

reactor: Any = installed

SHOP, CRM = new_key(), new_key()
BOTH = f"shop:{SHOP[1]}, crm:{CRM[1]}"
CALL = ("POST", "/api/tokens", {"member": "ann"})


def with_keys(keys: str) -> Node:
    """A node that asks for one of these."""
    node = Node()
    node.keys = keys
    return node


@ensureDeferred
async def test_every_key_opens_and_nothing_else_does() -> None:
    async with with_keys(BOTH) as node:
        for key, _ in (SHOP, CRM):
            for scheme in ("Bearer", "bearer"):
                answer = await node.ask(*CALL, headers={"Authorization": f"{scheme} {key}"})
                assert answer.status == 201
        wrong = ["", "Bearer", f"Bearer {SHOP[1]}", f"Bearer {SHOP[0][:-1]}", f"Basic {SHOP[0]}", SHOP[0], "Bearer é"]
        for shown in wrong:
            answer = await node.ask(*CALL, headers={"Authorization": shown} if shown else {})
            assert (answer.status, answer.json["code"]) == (401, "unauthorized"), shown
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "--server.api.keys" in answer.json["error"]


@ensureDeferred
async def test_health_is_told_without_a_key_and_nothing_else_is() -> None:
    async with with_keys(BOTH) as node:
        for path in ("/healthz", "/readyz"):
            assert (await node.ask("GET", path)).status == 200
        for path in ("/openapi.json", "/api/rooms", "/api/token/ann", "/api/members/ann/rooms"):
            assert (await node.ask("GET", path)).status == 401


@ensureDeferred
async def test_without_keys_none_is_asked_for() -> None:
    async with with_keys("") as node:
        assert (await node.ask(*CALL)).status == 201


@pytest.mark.parametrize(
    "wrong",
    ["shop", "shop:", f":{SHOP[1]}", f"a:{SHOP[1]},a:{CRM[1]}", f"a:{SHOP[0]}", "a:" + "0" * 63],
    ids=["a name", "no hash", "no name", "a name twice", "a key", "too short"],
)
def test_what_is_configured_has_to_be_names_and_hashes(wrong: str) -> None:
    with pytest.raises(ValueError, match="NAME:HASH"):
        api_keys(wrong)


def make(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from mercury.cli.keys import main; main()", "api", "new", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@ensureDeferred
async def test_what_mercury_keys_prints_works(tmp_path: Path) -> None:
    done = make("shop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"only this once: (\S+)$", done.stdout, re.MULTILINE)
    assert found
    async with with_keys(done.stdout.splitlines()[-1]) as node:
        assert (await node.ask(*CALL, headers={"Authorization": f"Bearer {found[1]}"})).status == 201
        assert (await node.ask(*CALL)).status == 401


@ensureDeferred
async def test_the_client_shows_its_key() -> None:
    async with with_keys(BOTH) as node:
        server = ServerAddress(api_port=node.port, api_key=CRM[0])
        assert await RestClient(reactor, reactor, server).token("ann")
        with pytest.raises(MercuryError, match=r"--server\.api\.keys"):
            await RestClient(reactor, reactor, ServerAddress(api_port=node.port)).token("ann")


@pytest.mark.slow
def test_a_name_that_the_configuration_would_cut_is_refused(tmp_path: Path) -> None:
    done = make("shop,crm", cwd=tmp_path)
    assert done.returncode == 2
    assert "a colon or a comma" in done.stderr
