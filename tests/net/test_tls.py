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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from OpenSSL import SSL

from mercury.net.tls import Certificate
from tests.support.certificates import Authority
from tests.support.paths import ROOT
from tests.support.raw_server import LISTENERS, PATIENCE, TWISTD, RawServer

pytestmark = pytest.mark.slow

EVERYTHING = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"  # that OpenSSL was built with


class Node(RawServer):
    """A server in a process of its own, with one certificate on all that it listens on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority.pem")
        self.trust = ssl.create_default_context(cafile=self.authority.file)
        self.cert, self.key = self.issue()
        files = (("cert", self.cert), ("key", self.key))
        super().__init__(folder, *(f"--{name}.tls.{what}={path}" for name in LISTENERS for what, path in files))

    def issue(self) -> tuple[Path, Path]:
        """A new certificate, in the same files."""
        return self.authority.issue(self.folder / "own", "127.0.0.1")

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
    running.stop()


def test_the_banner_says_that_it_is_tls(node: Node) -> None:
    said = node.out.read_text()
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


class Lenient:
    """A server that speaks whatever it is asked to, so that it is seen what a client really tries."""

    def __init__(self, files: tuple[Path, Path]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*files)
        self._context.minimum_version = ssl.TLSVersion.TLSv1
        self._context.set_ciphers(EVERYTHING)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with suppress(OSError):
                self._context.wrap_socket(self._listening.accept()[0], server_side=True).close()


def spoken(address: Any, trust: ssl.SSLContext) -> tuple[str | None, str] | None:
    """The version of TLS and the cipher that a server and such a client agree on; None if they do not."""
    try:
        with (
            socket.create_connection(address, PATIENCE) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            cipher = tls.cipher()
            assert cipher
            return tls.version(), cipher[0]
    except (ssl.SSLError, ConnectionError):
        return None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # which is what is tried here
def test_nothing_older_than_tls_1_2_is_spoken(node: Node) -> None:
    lenient = Lenient((node.cert, node.key))
    everywhere = [lenient.address, *(("127.0.0.1", node.ports[name]) for name in LISTENERS)]
    versions = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    found: list[list[str | None]] = []
    for address in everywhere:
        found.append([])
        for version in versions:
            trust = ssl.create_default_context(cafile=node.authority.file)
            trust.set_ciphers(EVERYTHING)
            trust.minimum_version = trust.maximum_version = version
            found[-1] += [agreed[0] for agreed in [spoken(address, trust)] if agreed]
    assert found == [["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"], *[["TLSv1.2", "TLSv1.3"]] * 3]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_no_cipher_without_authentication_is_spoken(node: Node) -> None:
    """By TLS 1.2; with 1.3 there is none."""
    trust = ssl.create_default_context(cafile=node.authority.file)
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    trust.set_ciphers(f"{EVERYTHING}:!AESGCM:!CHACHA20")
    assert spoken(Lenient((node.cert, node.key)).address, trust)
    assert [spoken(("127.0.0.1", node.ports[name]), trust) for name in LISTENERS] == [None] * 3


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # which is what Twisted asks for
def test_no_weak_cipher_is_offered_whatever_key_there_is(node: Node) -> None:
    offered = SSL.Connection(Certificate("it", node.cert, node.key).getContext()).get_cipher_list()
    good = re.compile(r"TLS_(AES|CHACHA20)_\w+|ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA\d+|CHACHA20-POLY1305)")
    assert [cipher for cipher in offered if not good.fullmatch(cipher)] == []


def test_plain_http_is_not_answered(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.ports["server.api"]), PATIENCE) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        got = plain.recv(1000)
        assert b"HTTP" not in got


@pytest.mark.parametrize("name", LISTENERS)
def test_what_is_no_tls_is_no_error_of_ours(node: Node, name: str) -> None:
    """Whoever scans ports makes no line in the log that an operator has to look at."""
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\xff" * 100):
        with node.dial(name) as peer:
            peer.send(junk)
            peer.rest()
    with socket.create_connection(("127.0.0.1", node.ports[name])) as plain, suppress(ssl.SSLError):
        ssl.create_default_context().wrap_socket(
            plain, server_hostname="127.0.0.1"
        )  # which does not know the authority
    with node.talk(name) as tls, socket.socket(fileno=tls.detach()) as plain:
        plain.settimeout(PATIENCE)
        plain.sendall(b"junk" * 100)
        with suppress(ConnectionResetError):
            while plain.recv(1000):
                pass
    assert node.complaints() == []


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
    node.until("the reload failed and nothing has changed")
    assert node.serial("server.api") == renewed
    assert re.search(r"server\.api\.tls: \S+own\.pem and \S+own\.key are not a PEM certificate", node.out.read_text())
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
    assert "belong together" in refused(tmp_path, f"--server.ws.tls.cert={cert}")
    assert "nowhere.pem: No such file" in refused(
        tmp_path, f"--server.ws.tls.cert={tmp_path}/nowhere.pem", f"--server.ws.tls.key={key}"
    )
    for wrong in (other, cert, tmp_path):
        assert "server.ws.tls" in refused(tmp_path, f"--server.ws.tls.cert={cert}", f"--server.ws.tls.key={wrong}")
