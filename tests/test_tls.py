"""TLS on the listeners: what is spoken, with which certificate, and that a new one is served without a restart."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from free_ports import free_port
from programs import ROOT

PATIENCE = 30.0  # seconds
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "mercury")
LISTENERS = ("server.api", "server.ws", "gotalk")


class Node:
    """A server in a process of its own, with one certificate on all that it listens on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority.pem")
        self.trust = ssl.create_default_context(cafile=self.authority.file)
        self.cert, self.key = self.issue()
        self.ports = {name: free_port() for name in LISTENERS}
        flags = [f"--{name}.port={port}" for name, port in self.ports.items()]
        flags += [
            f"--{name}.tls.{what}={path}"
            for name in LISTENERS
            for what, path in (("cert", self.cert), ("key", self.key))
        ]
        flags += [
            "--gotalk.enabled",
            "--server.ws.address=127.0.0.1",
            "--gotalk.address=127.0.0.1",
            "--storage.type=memory",
        ]
        with (folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [*TWISTD, *flags], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out
            )
        self.until("is ready")

    def issue(self) -> tuple[Path, Path]:
        """A new certificate, in the same files."""
        return self.authority.issue(self.folder / "own", "127.0.0.1")

    def until(self, said: str) -> None:
        """Wait until the server has said this."""
        end = time.monotonic() + PATIENCE
        while said not in (self.folder / "out").read_text():
            assert time.monotonic() < end, (self.folder / "out").read_text()
            assert self.process.poll() is None, (self.folder / "out").read_text()
            time.sleep(0.02)

    @contextmanager
    def talk(self, name: str, trust: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        """A TLS connection to a listener."""
        with (
            socket.create_connection(("127.0.0.1", self.ports[name]), PATIENCE) as plain,
            (trust or self.trust).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            yield tls

    def serial(self, name: str) -> int:
        """The number of the certificate that a listener serves, after all that a client checks."""
        with self.talk(name) as tls:
            found = tls.getpeercert()
            assert found
            return int(str(found["serialNumber"]), 16)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A REST call, as a backend makes it."""
        caller = http.client.HTTPSConnection(
            "127.0.0.1", self.ports["server.api"], timeout=PATIENCE, context=self.trust
        )
        caller.request(method, path, None if body is None else json.dumps(body))
        answer = json.load(caller.getresponse())
        caller.close()
        assert answer["status"] == "ok", answer
        return answer.get("body")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    running = Node(tmp_path_factory.mktemp("tls"))
    yield running
    running.process.terminate()
    assert running.process.wait(PATIENCE) == 0


def test_the_banner_says_that_it_is_tls(node: Node) -> None:
    said = (node.folder / "out").read_text()
    for name, scheme in zip(LISTENERS, ("https", "wss", "https"), strict=True):
        assert f"{scheme}://127.0.0.1:{node.ports[name]}" in said


def test_a_chat_by_tls(node: Node) -> None:
    token = node.ask("POST", "/api/tokens", {"member": "ann"})["token"]
    node.ask("POST", "/api/rooms/r/members", {"members": ["ann"]})
    with node.talk("server.ws") as tls:
        tls.sendall(
            f"GET /ws/connect?token={token}&member=ann HTTP/1.1\r\nHost: x\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        text = "long " * 20_000  # more than a TLS record, and more than a socket takes at once
        node.ask("POST", "/api/rooms/r/messages", {"member": "ann", "text": text[:16_000]})
        node.ask("POST", "/api/rooms/r/messages", {"member": "ann", "text": "the last"})
        got = b""
        while b"the last" not in got:
            got += tls.recv(65536)
        assert got.startswith(b"HTTP/1.1 101")
        assert text[:16_000].encode() in got


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # which is what is tried here
@pytest.mark.parametrize("name", LISTENERS)
def test_nothing_older_than_tls_1_2_is_spoken(node: Node, name: str) -> None:
    spoken = []
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        trust = ssl.create_default_context(cafile=node.authority.file)
        trust.set_ciphers("ALL:@SECLEVEL=0")  # else this side would not try
        trust.minimum_version = trust.maximum_version = version
        try:
            with node.talk(name, trust) as tls:
                spoken.append(tls.version())
        except (ssl.SSLError, ConnectionError):
            pass
    assert spoken == ["TLSv1.2", "TLSv1.3"]


def test_plain_http_is_not_answered(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.ports["server.api"]), PATIENCE) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        got = plain.recv(1000)
        assert b"HTTP" not in got


def test_a_renewed_certificate_is_served_after_sighup_and_a_broken_one_never(node: Node) -> None:
    before = node.serial("server.ws")
    with node.talk("server.api") as old:
        node.issue()
        assert node.serial("server.ws") == before  # not before it is told
        node.process.send_signal(signal.SIGHUP)
        node.until("certificates read: server.api.tls, server.ws.tls, gotalk.tls")
        renewed = node.serial("server.ws")
        assert renewed != before
        assert {node.serial(name) for name in LISTENERS} == {renewed}
        old.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert old.recv(1000).startswith(b"HTTP/1.1 200")  # who was connected stays so
    node.cert.write_text("no certificate")
    node.process.send_signal(signal.SIGHUP)
    node.until("nothing is reloaded, all stays as it was")
    assert node.serial("server.api") == renewed
    assert re.search(
        r"server\.api\.tls: \S+own\.pem and \S+own\.key are no certificate", (node.folder / "out").read_text()
    )
    node.issue()


def refused(folder: Path, *flags: str) -> str:
    """The line with which the server declines to start."""
    done = subprocess.run(
        [*TWISTD, "--server.ws.port=0", "--server.api.port=0", *flags], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_cannot_be_a_certificate_is_named_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority.pem")
    cert, key = authority.issue(tmp_path / "own", "127.0.0.1")
    _, other = authority.issue(tmp_path / "other", "127.0.0.1")
    assert "go together" in refused(tmp_path, f"--server.ws.tls.cert={cert}")
    assert "nowhere.pem: No such file" in refused(
        tmp_path, f"--server.ws.tls.cert={tmp_path}/nowhere.pem", f"--server.ws.tls.key={key}"
    )
    for wrong in (other, cert, tmp_path):
        assert "server.ws.tls" in refused(tmp_path, f"--server.ws.tls.cert={cert}", f"--server.ws.tls.key={wrong}")
