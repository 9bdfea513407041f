"""Who is slow is in nobody's way, and is not waited for for ever.

Two hundred connections that send a byte now and then, in the middle of a handshake, of headers, of a body; half a TLS
handshake; a PROXY header that does not end; clients that read nothing, or do not say goodbye. Real nodes.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from tests.support.certificates import Authority
from tests.support.paths import ROOT
from tests.support.raw_server import PATIENCE, RawServer, request
from tests.support.websocket_bytes import masked, upgrade

pytestmark = pytest.mark.alone

COUNT: Final = 200
MOST: Final = 2.0  # times as long as without them, for one answer in a hundred
OR_MORE: Final = 0.001  # seconds more
ROUNDS: Final = 2
TRIES: Final = 8  # a machine that does other things makes answers late; slow peers that harm do so most of the time
ASKED: Final = 100  # questions in a round
LIMIT: Final = 1.0  # seconds, for a handshake and for a request
V2: Final = "Sec-WebSocket-Protocol: mercury.v2.json"
ESTABLISHED: Final = 1  # tcp(7), TCP_INFO: the state of a connection that neither side has ended

#: Where, and how, peers are slow beside others.
WAYS: Final = (
    ("server.ws", "handshake"),
    ("server.api", "headers"),
    ("server.api", "body"),
    ("gotalk", "headers"),
    ("gotalk", "chunks"),
)

#: The same for a node with short limits, which serves WebSocket and REST by TLS, and goTalk behind a proxy.
ENDING_WAYS: Final = (
    ("server.ws", "silent"),
    ("server.ws", "half a hello"),
    ("server.ws", "tls silent"),
    ("server.ws", "tls handshake"),
    ("server.ws", "tls no login"),
    ("server.api", "half a hello"),
    ("server.api", "tls silent"),
    ("server.api", "tls headers"),
    ("server.api", "tls body"),
    ("server.api", "tls chunks"),
    ("gotalk", "silent"),
    ("gotalk", "proxy header"),
    ("gotalk", "proxied silence"),
    ("gotalk", "proxied headers"),
    ("gotalk", "proxied body"),
)


#: What is sent by whom does nothing afterwards, though the server ends the connection.
RUDE: Final = {
    "a refused handshake": ("server.ws", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a close": ("server.ws", upgrade("/ws/connect", V2) + masked(b"\x03\xe8", 0x88)),
    "a violation": ("server.ws", upgrade("/ws/connect", V2) + masked(b"x", 0x83)),
    "a last request": ("server.api", b"GET /healthz HTTP/1.0\r\n\r\n"),
    "no request": ("server.api", b"nonsense\r\n\r\n"),
    "many requests": ("server.api", request("/openapi.json", method="GET") * 300),
}


class SlowPeers:
    """The program slow_peers.py, running."""

    def __init__(self, port: int, way: str, count: int = COUNT) -> None:
        program = [sys.executable, "-S", "-E", str(ROOT / "tests/support/slow_peers.py")]
        self._process = subprocess.Popen(
            [*program, str(port), str(count), way],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout
        assert self._process.stdout.readline() == "open\n"

    def closed_after(self) -> float:
        """When the server has closed as many as there are: after how many seconds it began to."""
        assert self._process.stdout
        return float(self._process.stdout.readline() or "nan")

    def stop(self) -> None:
        """Let go of all."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawServer]:
    folder = tmp_path_factory.mktemp("short")
    cert, key = Authority(folder / "authority.pem").issue(folder / "own", "127.0.0.1")
    running = RawServer(
        folder,
        *(f"--{name}.tls.cert={cert}" for name in ("server.ws", "server.api")),
        *(f"--{name}.tls.key={key}" for name in ("server.ws", "server.api")),
        "--gotalk.address=127.0.0.1,192.0.2.0/24",
        f"--limits.handshake-seconds={LIMIT}",
        f"--limits.request-seconds={LIMIT}",
        proxied=["gotalk"],
    )
    yield running
    running.stop()
    assert running.complaints() == []


@pytest.fixture(scope="module")
def slow(node: RawServer) -> Iterator[dict[tuple[str, str], SlowPeers]]:
    """Some that are slow while the first test goes on."""
    running = {(listener, way): SlowPeers(node.ports[listener], way, 10) for listener, way in ENDING_WAYS}
    yield running
    for peers in running.values():
        peers.stop()


@pytest.fixture(scope="module")
def rude(node: RawServer) -> Iterator[dict[str, ssl.SSLSocket]]:
    """Clients that have sent what the server ends the connection for, and do nothing more; connected by TLS."""
    context = ssl._create_unverified_context()
    with ExitStack() as stack:
        peers = {}
        for name, (listener, data) in RUDE.items():
            peers[name] = stack.enter_context(context.wrap_socket(node.dial(listener).socket))
            peers[name].sendall(data)
        yield peers


class Client:
    """Somebody who chats meanwhile."""

    def __init__(self, node: RawServer) -> None:
        self.peer = node.upgraded("mercury.v2.json", "ann")
        self._events = self.peer.frames()
        self._ref = 0

    def ask(self, count: int) -> float:
        """Say something so many times, one after the other: how long one in a hundred took until it was answered."""
        took = []
        for _ in range(count):
            self._ref += 1
            began = time.perf_counter()
            self.peer.send(masked(b'{"type":"send","rid":"r","text":"x","ref":%d}' % self._ref))
            answer = b'"ref":%d' % self._ref
            while answer not in (payload := next(self._events)[1]):
                if payload.isdigit():
                    self.peer.send(masked(payload, 0x8A))
            took.append(time.perf_counter() - began)
        return sorted(took)[-1 - count // 100]


def slowed_down(node: RawServer, client: Client, listener: str, way: str) -> float:
    """How many times as long an answer takes beside slow peers as without; 1 if it is hardly anything more. The machine
    does as much in both cases: what slow peers do, they do to nobody."""
    took = []
    for port in (0, node.ports[listener]):
        peers = SlowPeers(port, way)
        client.ask(ASKED // 4)  # until all have been accepted
        took.append(client.ask(ASKED))
        peers.stop()
    alone, beside = took
    return beside / alone if beside > alone + OR_MORE else 1.0


@pytest.mark.usefixtures("slow", "rude")  # their time passes meanwhile
def test_two_hundred_slow_peers_are_in_nobodys_way(tmp_path: Path) -> None:
    """One answer in a hundred takes at most twice as long as without them: the median of several rounds."""
    node = RawServer(tmp_path)
    node.call("POST", "/api/rooms/r/members", {"members": ["ann"]})
    client = Client(node)
    with client.peer:
        client.ask(ASKED)
        times: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
        for _ in range(TRIES):
            harming = [way for way, found in times.items() if not found or median(found) > MOST]
            for way in harming * ROUNDS:
                times[way].append(slowed_down(node, client, *way))
    node.stop()
    assert {way: found for way, found in times.items() if median(found) > MOST} == {}


def test_slow_peers_are_hung_up_on(slow: dict[tuple[str, str], SlowPeers]) -> None:
    """Each, though it goes on sending; and nobody before the limit."""
    assert [way for way, peers in slow.items() if not peers.closed_after() > LIMIT / 2] == []


def test_who_does_not_say_goodbye_or_reads_no_answers_is_hung_up_on(rude: dict[str, ssl.SSLSocket]) -> None:
    """By TLS each side ends the connection (RFC 8446, 6.1), but the server does not wait for the other one's end."""
    end = time.monotonic() + PATIENCE
    for name, peer in rude.items():
        while peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED:
            assert time.monotonic() < end, name
            time.sleep(0.02)
