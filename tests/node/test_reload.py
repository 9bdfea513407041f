"""A reload: what is in the file now holds, for who is connected too; a mistake changes nothing; one line says what was
done. What each setting decides is in test_live_settings.py.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from mercury.node.reload import adopt
from mercury.rest.api_keys import new_key
from mercury.settings.schema import Config
from mercury.settings.sources import SETTINGS, load
from mercury.settings.types import Secret
from tests.support.certificates import Authority
from tests.support.clockwork import Clockwork
from tests.support.recorder import Record
from tests.support.recording_clients import V2Client, until
from tests.support.server_process import Server
from tests.support.whole_node import WholeNode

#: What may be wrong with a file, and what is said of it.
MISTAKES = {
    "[limits\ntext-bytes = 5": "mercury.toml is not valid TOML: ",
    "[limits]\ntext-byte = 5": "mercury.toml: unknown setting limits.text-byte; did you mean limits.text-bytes?",
    "[limits]\ntext-bytes = -1": "mercury.toml: limits.text-bytes: -1 is not valid: give a whole number from 0 to ",
    "[server.api]\naddress = '10.0.0.1/8'": "mercury.toml: server.api.address: '10.0.0.1/8' is not valid: ",
    "[gotalk]\nregistration = 'invite'": "gotalk.registration is invite, but gotalk.invite is not set",
    "[gotalk]\ninvite-file = '/nowhere/invite'": "/nowhere/invite cannot be read: No such file or directory",
    "[server.api.tls]\ncert = 'a.pem'": "server.api.tls.cert and server.api.tls.key belong together",
}


class Node(Server):
    """A server with a settings file, which is sent SIGHUP."""

    def __init__(self, folder: Path, ports: tuple[int, int], text: str) -> None:
        self.file = folder / "mercury.toml"
        self.file.write_text(text)
        super().__init__(folder, ports, f"--config={self.file}")

    async def reload(self, text: str | None) -> dict[str, Any]:
        """Write the file anew, or take it away, and reload; the line of the log that says what came of it."""
        if text is None:
            self.file.unlink()
        else:
            self.file.write_text(text)
        before = len(self.lines())
        os.kill(self.pid, signal.SIGHUP)
        await until(lambda: len(self.lines()) > before, "the reload")
        return self.lines()[before]

    def lines(self) -> list[dict[str, Any]]:
        """What was logged of reloads."""
        lines = [json.loads(line) for line in self.written().splitlines() if line.startswith(b"{") and b"}" in line]
        return [line for line in lines if line["system"] == "mercury.node.reload"]


@pytest.mark.slow
@ensureDeferred
async def test_the_file_is_read_again_and_a_mistake_in_it_changes_nothing(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    node = Node(tmp_path, (free_port(), free_port()), "[limits]\ntext-bytes = 100")
    _, digest = new_key()
    try:
        await node.start()
        await node.ok("POST", "/api/rooms/r/members", {"members": ["ann"]})
        ann = V2Client(Record(), node.where, "ann", await node.token("ann"), "phone")
        await ann.connect()
        assert (await ann.ask(type="send", rid="r", text="hello"))["type"] == "ok"

        done = await node.reload(
            "[limits]\ntext-bytes = 4\n"
            f"[server.api]\nkeys = 'shop:{digest}'\nport = 1\naddress = '0.0.0.0/0'\n"
            "[mysql]\npassword = 'canary'\n"
        )
        assert done["level"] == "warn"  # something waits
        assert done["changed"] == "server.api.address, server.api.keys, limits.text-bytes"
        assert done["waiting"] == "mysql.password, the interface that server.api.address selects", (
            "its port is a flag's"
        )
        assert done["message"].startswith("reloaded; changed: server.api.address, ")
        assert digest not in str(done)
        assert "canary" not in str(done)
        assert (await node.call("GET", "/api/rooms"))[0] == 401
        assert (await ann.ask(type="send", rid="r", text="hello"))["code"] == "too_large"

        for text, why in MISTAKES.items():
            done = await node.reload(text)
            assert done["level"] == "error"
            assert done["message"].startswith("the reload failed and nothing has changed: ")
            assert done["message"].endswith("; fix it and reload again")
            assert why in done["message"]
        done = await node.reload(None)
        assert f"{node.file} cannot be read: No such file or directory" in done["message"]
        assert (await node.call("GET", "/api/rooms"))[0] == 401
        assert (await ann.ask(type="send", rid="r", text="hello"))["code"] == "too_large"

        done = await node.reload("")
        assert done["changed"] == "server.api.address, server.api.keys, limits.text-bytes"
        assert (await ann.ask(type="send", rid="r", text="hello"))["type"] == "ok"
        assert ann.open, "all the time on the same connection"
        await ann.close()
        await node.stop()
    finally:
        if node.processes and not node.processes[-1].ended.called:
            await node.kill()
    assert b"Traceback" not in node.written()


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # as Twisted does
@ensureDeferred
async def test_settings_and_certificates_change_together_or_not_at_all(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority.pem")
    cert, key = authority.issue(tmp_path / "own", "127.0.0.1")
    async with WholeNode({"server.ws.tls.cert": str(cert), "server.ws.tls.key": str(key)}) as node:
        certificate = node.service.listenings[1].certificate
        assert certificate is not None
        before = certificate.getContext()
        cert.write_text("nothing")
        node.reload("limits.text-bytes", "5")
        assert node.config.limits.text_bytes == Config().limits.text_bytes
        assert "server.ws.tls" in node.log[-1]["message"]
        assert "unavailable" not in node.log[-1]["message"]
        authority.issue(tmp_path / "own", "127.0.0.1")
        node.reload("limits.text-bytes", "x")
        assert certificate.getContext() is before
        node.reload("limits.text-bytes", "5")
        assert node.config.limits.text_bytes == 5
        assert certificate.getContext() is not before


def test_a_setting_that_has_to_wait_is_named_at_each_reload_and_left_alone() -> None:
    config, _ = load({}, {})
    new, _ = load({"server.ws.port": "7000", "redis.host": "other", "limits.burst": "7"}, {})
    assert adopt(config, new) == (["limits.burst"], ["server.ws.port", "redis.host"])
    assert adopt(config, new) == ([], ["server.ws.port", "redis.host"])
    assert (config.server.ws.port, config.redis.host, config.limits.burst) == (6010, "", 7)
    assert Config().limits.burst == 0, "the defaults are nobody's to change"


def test_a_secret_changes_without_being_shown() -> None:
    config, _ = load({}, {})
    new, _ = load({"gotalk.invite": "canary"}, {})
    assert adopt(config, new) == (["gotalk.invite"], [])
    assert config.gotalk.invite == Secret("canary")
    assert SETTINGS["gotalk.invite-file"].live


def test_who_is_here_is_pinged_as_they_were_told() -> None:
    """A client that was told 25 s and hears nothing for 75 would take the server for gone."""
    node = Clockwork(ping_seconds=25.0)
    node.join("r", "ann", "bob")
    ann = node.device("ann")
    node.chat.limits.ping_seconds = 100.0
    bob = node.device("bob")
    assert [device.of("hello")[0]["heartbeat"] for device in (ann, bob)] == [25.0, 100.0]
    pings: dict[Any, int] = {ann: 0, bob: 0}
    for device in pings:
        device.pings.clear()
    for _ in range(4 * 26):
        node.wait(1)
        for device in pings:
            while device.pings:
                device.pong()
                pings[device] += 1
    assert pings == {ann: 4, bob: 1}
    assert set(node.chat.heartbeat.everybody()) == {ann.session, bob.session}
    ann.lose()
    node.chat.limits.ping_seconds = 50.0
    node.device("ann")
    assert node.chat.heartbeat._wheels.keys() == {100.0, 50.0}, "nobody is on the first one any more"


@pytest.mark.parametrize("path", ["server.api.port", "storage.type", "sqlite.path", "crypto.keys", "gotalk.enabled"])
def test_what_is_fixed_at_the_start_is_declared_so(path: str) -> None:
    assert not SETTINGS[path].live
