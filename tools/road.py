"""Follows one message through a real node, function by function: `make road`.

It starts a node on SQLite with a profiler in it, connects two members by mercury.v2.json, lets one of them say
something to the other, and keeps which of Mercury's functions were called from the arrival of the sender's bytes until
the receiver's bytes were given to the socket. Then the same with two nodes on Redis, a member on each. docs/road.json
keeps what it finds; `python -m mercury.reference` makes the tables and the picture in docs/design.md from that.
`python -m tools.road FOLDER` prints the road through another tree, and keeps nothing.

A function counts each time that it is entered, a coroutine or a generator also when it goes on. A change of file is an
entry into a function that stands in another file than the one entered before it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import queue
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from mercury.reference import road
from mercury.reference.modules import ROOT
from mercury.reference.road import Profile, Road

PROGRAM = Path(__file__).resolve().with_name("profiled_node.py")
WARM_UP = 10  # messages before those that are looked at
MESSAGES = 11  # that are looked at: a timer may fall among the calls of some
START_SECONDS = 30.0
PAUSE_SECONDS = 0.06  # between messages: what follows one is over


class Call(NamedTuple):
    """An entry into a function at some time; or, without a file, bytes given to the socket of a peer: `name` is that
    one's port."""

    at: float
    beside: bool
    file: str
    name: str


class Node:
    """A node with the profiler in it. It is running when it has been made."""

    def __init__(self, folder: Path, tree: Path, *flags: str) -> None:
        self.api, self.ws = free_port(), free_port()
        self._calls = folder / f"calls-{self.api}.json"
        self._log = folder / f"log-{self.api}"
        ports = [f"--server.api.port={self.api}", f"--server.ws.port={self.ws}", "--server.ws.address=127.0.0.1/32"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program of ours
                [sys.executable, str(PROGRAM), str(tree), str(self._calls), *flags, *ports],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(tree)},
            )  # fmt: skip
        try:
            wait_until(self._is_ready, self._log)
        except BaseException:
            self._process.kill()
            raise

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            sys.exit(f"{self._log.read_text()[-2000:]}\nthe node does not start: its log is above")
        with suppress(OSError):
            return self.call("GET", "/readyz")[0] == 200
        return False

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One REST call: the status and what was answered."""
        api = http.client.HTTPConnection("127.0.0.1", self.api, timeout=10)
        try:
            api.request(method, path, None if body is None else json.dumps(body))
            answer = api.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            api.close()

    def end(self) -> list[Call]:
        """Stop it: all that it has recorded."""
        self._process.terminate()
        self._process.wait(START_SECONDS)
        return [Call(*call) for call in json.loads(self._calls.read_text())]

    def kill(self) -> None:
        """In case that something has gone wrong."""
        self._process.kill()
        self._process.wait()


class Member:
    """A member's client, logged in by mercury.v2.json (RFC 6455 by hand: nothing has to be installed)."""

    def __init__(self, node: Node, name: str) -> None:
        token = node.call("POST", "/api/tokens", {"member": name})[1]["body"]["token"]
        self.socket = socket.create_connection(("127.0.0.1", node.ws), 10)
        self.port: int = self.socket.getsockname()[1]
        self._file = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /ws/connect HTTP/1.1", f"Host: 127.0.0.1:{node.ws}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mercury.v2.json",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while self._file.readline().strip():
            pass
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.say(type="connect", token=token, member=name)
        self.hear("caught_up")

    def say(self, **keys: Any) -> None:
        """One command."""
        self._send(0x81, json.dumps(keys).encode())

    def _send(self, head: int, payload: bytes) -> None:
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.socket.sendall(bytes([head]) + length + mask + masked)

    def _read(self) -> None:
        """Take what comes, and answer pings, as libraries do, until the connection ends."""
        with suppress(OSError):
            while len(begin := self._file.read(2)) == 2:
                head, length = begin
                if length > 125:
                    length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
                payload = self._file.read(length)
                if head == 0x89:
                    self._send(0x8A, payload)
                elif head == 0x81:
                    self._events.put(json.loads(payload))

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._reading.join()
        self._file.close()
        self.socket.close()

    def hear(self, kind: str) -> None:
        """Wait for an event of this kind."""
        while (event := self._events.get(timeout=10))["type"] != kind:
            if event["type"] == "error":
                sys.exit(f"the node answers {event}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_so: Any, log: Path) -> None:
    """SystemExit if it does not become so."""
    until = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > until:
            sys.exit(f"{log.read_text()[-2000:]}\nit does not start: the log is above")
        time.sleep(0.05)


@contextmanager
def a_redis(folder: Path) -> Iterator[int]:
    """A Redis server of our own: its port."""
    port = free_port()
    program = shutil.which("redis-server") or sys.exit("redis-server is not installed: apt-get install redis-server")
    log = folder / "redis.log"
    process = subprocess.Popen(  # noqa: S603 - as above
        [
            program,
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--dir",
            str(folder),
            "--save",
            "",
            "--logfile",
            str(log),
        ],
        stdin=subprocess.DEVNULL,
    )

    def answers() -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    try:
        wait_until(answers, log)
        yield port
    finally:
        process.terminate()
        process.wait()


def talk(sender: Member, receiver: Member) -> Iterator[tuple[float, float]]:
    """Say many messages; of those that are looked at, when each was sent, and when all was over."""
    for number in range(WARM_UP + MESSAGES):
        time.sleep(PAUSE_SECONDS)
        began = time.monotonic()
        sender.say(type="send", rid="lobby", text=f"message {number}", cid=f"{random.getrandbits(64):x}")
        receiver.hear("message")
        sender.hear("ok")
        time.sleep(PAUSE_SECONDS)
        if number >= WARM_UP:
            yield began, time.monotonic()


def looked_at(calls: list[Call], times: list[tuple[float, float]], port: int) -> Road:
    """The road that most of the messages took, from the first call within their time until bytes were given to the
    socket of a peer; of several, the shortest."""
    ways: Counter[tuple[road.Step, ...]] = Counter()
    for began, ended in times:
        during = [call for call in calls if began <= call.at <= ended]
        given = [call.at for call in during if not call.file and call.name == str(port)]
        if given:
            ways[tuple(in_order([call for call in during if call.file and call.at < given[0]]))] += 1
    most = max(ways.values())
    return min((way for way, count in ways.items() if count == most), key=len)


def in_order(calls: Sequence[Call]) -> Iterator[road.Step]:
    """As they came; but what two threads did at the same time comes thread by thread, the reactor's first."""
    last = max((call.at for call in calls if call.beside), default=0.0)
    for call in sorted(calls, key=lambda call: (call.at > last, call.beside, call.at)):
        yield road.Step(call.file, call.name, call.beside)


def one_node(tree: Path) -> Road:
    """A message's road through one node on SQLite."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        node = Node(folder, tree, "--storage.type=sqlite", f"--sqlite.path={folder / 'mercury.db'}")
        stack.callback(node.kill)
        node.call("POST", "/api/rooms/lobby/members", {"members": ["ann", "bob"]})
        with closing(Member(node, "ann")) as ann, closing(Member(node, "bob")) as bob:
            times = list(talk(ann, bob))
        return looked_at(node.end(), times, bob.port)


def two_nodes(tree: Path) -> tuple[Road, Road]:
    """A message's road through the sender's node and the receiver's, which share a Redis."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        flags = [
            "--storage.type=redis",
            "--redis.host=127.0.0.1",
            f"--redis.port={stack.enter_context(a_redis(folder))}",
        ]
        nodes = [Node(folder, tree, *flags), Node(folder, tree, *flags)]
        for node in nodes:
            stack.callback(node.kill)
        nodes[0].call("POST", "/api/rooms/lobby/members", {"members": ["ann", "bob"]})
        with closing(Member(nodes[0], "ann")) as ann, closing(Member(nodes[1], "bob")) as bob:
            times = list(talk(ann, bob))
        return looked_at(nodes[0].end(), times, ann.port), looked_at(nodes[1].end(), times, bob.port)


# What was found


def told(name: str, way: Road, tree: Path) -> Iterator[str]:
    """The figures, and a line for each station."""
    ours = road.in_reactor(way)
    lines = sum((tree / file).read_text("utf-8").count("\n") for file in road.files(ours))
    yield f"{name}: {len(ours)} calls, {len(set(ours))} functions, {len(road.files(ours))} files with {lines} lines, "
    yield f"{road.changes(ours)} changes of file\n"
    for number, file, functions in road.stations(way):
        yield f"{number:>5} {file}: {', '.join(functions)}\n"
    yield "\n"


def main() -> None:
    """Measure, print, and keep what is this tree's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path, help="the folder with another Mercury")
    given = parser.parse_args()
    tree: Path = (given.tree or ROOT).resolve()
    profile = Profile(one_node(tree), *two_nodes(tree))
    for name, way in profile._asdict().items():
        sys.stdout.writelines(told(name, way, tree))
    if given.tree is None:
        road.write(profile)


if __name__ == "__main__":
    main()
