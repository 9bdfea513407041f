"""etc/three-nodes/ as it is, started as `make cluster` does it, keeps Mercury's promises: real HAProxy, MariaDB, Redis.

Only ports, the folder, and who may connect are other ones than the files say. Addresses other than 127.0.0.1 stand for
clients elsewhere: all of 127.0.0.0/8 is this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.promises.checker import violations
from tests.promises.scenario import KINDS, ROOMS, Scenario
from tests.support.free_ports import free_port
from tests.support.paths import ROOT
from tests.support.recording_clients import Client, RefusedError, V1Client, until
from tests.support.server_process import Server

pytestmark = pytest.mark.slow

HAPROXY_CFG = ROOT / "etc/three-nodes/haproxy.cfg"
NODES = ("node1", "node2", "node3")
LISTED, UNLISTED = "127.0.0.9", "127.0.0.99"
START_SECONDS = 120


def program(name: str, package: str) -> str:
    """Its path; Debian has some where only root looks. Without it the test is skipped, which CI takes for a failure."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is missing: apt-get install {package} (make test does it, as root)")
    return found


class Cluster:
    """tools/cluster.py in a process of its own. `ports`: HAProxy's, for WebSocket and REST."""

    def __init__(self, folder: Path) -> None:
        for name, package in (("haproxy", "haproxy"), ("mariadbd", "mariadb-server-core"), ("redis-server",) * 2):
            program(name, package)
        self.folder = folder
        self.ports = free_port(), free_port()
        names = re.findall(r"^ *presetenv +(NODE\S+)", HAPROXY_CFG.read_text(), re.MULTILINE)
        environment = {
            **os.environ,
            **{name: f"127.0.0.1:{free_port()}" for name in names},
            "CHAT": f"127.0.0.1:{self.ports[0]}",
            "REST": f"127.0.0.1:{self.ports[1]}",
            "BACKEND": "127.0.0.1/32",
            "CLUSTER_FOLDER": str(folder),
            "MERCURY_MYSQL_PORT": str(free_port()),
            "MERCURY_REDIS_PORT": str(free_port()),
            "MERCURY_SERVER_WS_ADDRESS": "127.0.0.0/28",
            "PYTHONPATH": str(ROOT),
        }
        with (folder / "said").open("wb") as said:
            command = [sys.executable, str(ROOT / "tools/cluster.py")]
            self.process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        end = time.monotonic() + START_SECONDS
        while "are ready" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        """What it printed."""
        return (self.folder / "said").read_text()

    def pid(self, name: str) -> int:
        """The process id of one of its programs."""
        return int((self.folder / f"{name}.pid").read_text())

    def log(self, name: str) -> str:
        """What one of its programs wrote."""
        return (self.folder / f"{name}.log").read_text()

    def nodes(self) -> dict[str, tuple[str, int]]:
        """Each node's state in HAProxy, and how many WebSockets it has there."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.folder / "haproxy.socket"))
            peer.sendall(b"show stat\n")
            rows = [line.split(",") for line in peer.makefile()]
        return {row[1]: (row[17], int(row[4])) for row in rows if row[0] == "ws" and row[1] in NODES}

    def all_up(self) -> bool:
        """Whether HAProxy would send clients to each node."""
        return all(state == "UP" for state, _ in self.nodes().values())

    def all_down(self) -> bool:
        """Whether HAProxy would send clients to none of them."""
        return all(state.startswith("DOWN") for state, _ in self.nodes().values())

    def spread(self) -> list[int]:
        """How many WebSockets the nodes have."""
        return [count for _, count in self.nodes().values()]

    def stop(self) -> None:
        """Ctrl-C. Nothing is left of it."""
        pids = [int(path.read_text()) for path in self.folder.glob("*.pid")]
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.said()
        assert len(pids) == 6
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests of this module."""
    running = Cluster(tmp_path_factory.mktemp("three-nodes"))
    yield running
    running.stop()


class Chat(Scenario):
    """Members of all protocols behind HAProxy, who come back through it when they lose the connection.

    `name`: what tells them and their rooms from those of other tests.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(Server(cluster.folder, cluster.ports), seed=1)
        self.name = name

    async def begin(self) -> None:
        """Make rooms, tokens and connections."""
        for rid, numbers in ROOMS.items():
            members = [f"{self.name}-{n}" for n in numbers]
            self.record.members[f"{self.name}-{rid}"] = set(members)
            await self.server.ok("POST", f"/api/rooms/{self.name}-{rid}/members", {"members": members})
        for n in ROOMS["all"]:
            member = f"{self.name}-{n}"
            self.clients.append(KINDS[n](self.record, self.server.where, member, await self.server.token(member)))
        for client in self.clients:
            await self._return(client)

    async def talk(self, seconds: float) -> None:
        """Whoever is connected talks, and whoever is not comes back."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or not all(client.open for client in self.clients):
            for client in self.clients:
                if client.open:
                    self._talk(client)
                else:
                    await self._come_back(client)
            await deferLater(reactor, 0.01)

    async def _come_back(self, client: Client) -> None:
        if isinstance(client, V1Client):
            client.waiting.clear()  # what was not answered on the last connection is not waited for
        try:
            await self._return(client)
        except RefusedError:
            await deferLater(reactor, 0.05)

    async def wrong(self) -> str:
        """What is wrong when all is quiet; empty when nothing is."""
        await self._recovered()
        await self._histories()
        return "\n".join(violations(self.record))


@contextmanager
def knocking(address: str, port: int, target: str, *headers: str) -> Iterator[bytes]:
    """The beginning of the answer to an HTTP request from another address; nothing, if the connection is refused."""
    with socket.socket() as peer:
        peer.settimeout(10)
        peer.bind((address, 0))
        try:
            peer.connect(("127.0.0.1", port))
            peer.sendall("\r\n".join([f"GET {target} HTTP/1.1", "Host: chat.example", *headers, "", ""]).encode())
            answer = peer.recv(1000)
        except ConnectionResetError:
            answer = b""
        yield answer


UPGRADE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)  # fmt: skip


def test_haproxy_accepts_the_configuration_without_a_warning() -> None:
    haproxy = program("haproxy", "haproxy")
    done = subprocess.run([haproxy, "-c", "-f", str(HAPROXY_CFG)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "Configuration file is valid", "")


@ensureDeferred
async def test_clients_are_spread_over_the_nodes_and_talk(cluster: Cluster) -> None:
    chat = Chat(cluster, "spread")
    try:
        await until(cluster.all_up, "three nodes")
        await chat.begin()
        assert min(cluster.spread()) >= 2
        while {ask.mid for ask in chat.record.asks if ask.rid == "spread-all"} < chat.record.members["spread-all"]:
            await chat.talk(0.1)
        assert not await chat.wrong()
        assert len({seen.mid for seen in chat.record.histories["REST"]["spread-all"]}) == len(chat.clients)
    finally:
        chat.end()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@ensureDeferred
async def test_clients_of_a_node_that_goes_come_back_and_miss_nothing(cluster: Cluster, how: signal.Signals) -> None:
    chat = Chat(cluster, how.name)
    try:
        await until(cluster.all_up, "three nodes")
        await chat.begin()
        victim = max(NODES, key=lambda name: cluster.nodes()[name][1])
        pid = cluster.pid(victim)
        talk = Deferred.fromCoroutine(chat.talk(1))
        await deferLater(reactor, 0.2)
        os.kill(pid, how)
        await until(lambda: any(client.closes for client in chat.clients), "the end of a connection")
        await gatherResults([talk])
        assert not await chat.wrong()
        await until(lambda: cluster.pid(victim) != pid and cluster.all_up(), "the node's return")
    finally:
        chat.end()


@ensureDeferred
async def test_clients_keep_their_connections_while_the_store_is_away(cluster: Cluster) -> None:
    """Then no node is ready, and HAProxy sends nobody to any; whoever is connected stays, and goes on afterwards."""
    chat = Chat(cluster, "stay")
    mariadb = cluster.pid("mariadb")
    try:
        await until(cluster.all_up, "three nodes")
        await chat.begin()
        os.kill(mariadb, signal.SIGSTOP)
        await until(cluster.all_down, "the nodes' going")
        os.kill(mariadb, signal.SIGCONT)
        await until(cluster.all_up, "the nodes' return")
        assert not any(client.closes for client in chat.clients)
        await chat.talk(0.1)
        assert not await chat.wrong()
    finally:
        os.kill(mariadb, signal.SIGCONT)
        chat.end()


@ensureDeferred
async def test_mercury_sees_and_filters_by_the_clients_own_address(cluster: Cluster) -> None:
    server = Server(cluster.folder, cluster.ports)
    await until(cluster.all_up, "three nodes")
    target = f"/ws/connect?member=knocker&token={await server.token('knocker')}"
    with knocking(LISTED, cluster.ports[0], target, *UPGRADE) as answer:
        assert answer.startswith(b"HTTP/1.1 101 ")
        peers: set[str] = set()
        for _ in range(10 * len(NODES)):  # by each node in turn, if none was away for a moment
            told = await server.ok("GET", "/api/members/knocker/connections")
            peers |= {connection["peer"] for connection in told["connections"]}
        (peer,) = peers
        assert peer.startswith(f"tcp4:{LISTED}:")
    with knocking(UNLISTED, cluster.ports[0], target, *UPGRADE) as answer:
        assert answer.startswith(b"HTTP/1.1 502 ")
    await until(
        lambda: any(f"1 not on the address list; the last from {UNLISTED}" in cluster.log(node) for node in NODES),
        "a line in a node's log",
    )


@ensureDeferred
async def test_rest_is_for_the_backend_only(cluster: Cluster) -> None:
    server = Server(cluster.folder, cluster.ports)
    await until(cluster.all_up, "three nodes")
    for n in range(6):  # each node twice
        await server.ok("POST", "/api/rooms/rest/members", {"members": [f"r{n}"]})
        await server.ok("POST", "/api/rooms/rest/messages", {"text": f"hello {n}", "member": f"r{n}"})
    assert [seen.text for seen in await server.history("rest")] == [f"hello {n}" for n in range(6)]
    with knocking(LISTED, cluster.ports[1], "/readyz") as answer:
        assert answer == b""
