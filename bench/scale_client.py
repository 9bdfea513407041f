"""What `make bench ARGS="scale"` times: one member's WebSocket connection, and the calls over it and over REST.

The client blocks, and does as little as it can: Autobahn would take longer to read 500 frames than Mercury takes to
write them.
"""

from __future__ import annotations

import http.client
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import msgspec

from bench.processes import BenchError
from bench.runs import Figures
from bench.scale_fill import CROWD, LOG, ROAMER, Size, author, one_of, room, secret
from bench.servers import Server

TRIES: Final = 40
PAGE: Final = 50  # messages in a page of history
NAMES: Final = 100  # members in a page of them
PATIENCE: Final = 30.0  # seconds
TEXT, PING, PONG = 1, 9, 10  # RFC 6455, 5.2
KEY: Final = b"\0\0\0\0"  # a mask that changes nothing

#: What is measured, in the order of the table.
MEASURES: Final = {
    "hello": "connect, until `hello` with all rooms and unread counts",
    "live": "connect, until live in all rooms",
    "missed": "connect with 100 missed messages, until live",
    "unread": "unread counts (`rooms`)",
    "newest": f"{PAGE} messages of history, the newest",
    "middle": f"{PAGE} messages of history, in the middle",
    "oldest": f"{PAGE} messages of history, the oldest",
    "read": "move a read mark",
    "say": "send a message, until all who are connected have it",
    "rest_rooms": "REST: a member's rooms",
    "rest_members": f"REST: {NAMES} of a room's members",
    "rest_messages": f"REST: {PAGE} messages of a room",
}


class Connection:
    """A member's connection to a node in mercury.v2.json, logged in: `hello` is what the server said to that."""

    def __init__(self, port: int, mid: str, resume: dict[str, Any] | None = None) -> None:
        self.mid = mid
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            b"GET /ws/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: mercury.v2.json\r\n\r\n"
        )
        self._in = self._socket.makefile("rb")
        while line := self._in.readline().strip():
            if line.startswith(b"HTTP") and b" 101 " not in line:
                raise BenchError(f"no WebSocket for {mid}: {line.decode()}")
        self.say("connect", token=secret(mid), member=mid, **({"resume": resume} if resume else {}))
        self.hello = self.next()

    def close(self) -> None:
        """Hang up."""
        self._in.close()
        self._socket.close()

    def say(self, type: str, **keys: Any) -> None:
        """Send a command."""
        self._send(TEXT, msgspec.json.encode({"type": type, **keys}))

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2) if size < 65536 else b""
        if not length:
            raise BenchError(f"a frame of {size} bytes is more than a client should send")
        self._socket.sendall(bytes([0x80 | opcode]) + length + KEY + payload)

    def next(self) -> dict[str, Any]:
        """The next event. Pings on the way are answered; an error is a BenchError."""
        while True:
            opcode, size = self._in.read(2) or (0, 0)
            if size > 125:
                size = int.from_bytes(self._in.read(2 if size == 126 else 8))
            payload = self._in.read(size)
            if opcode == 0x80 | TEXT:
                event: dict[str, Any] = msgspec.json.decode(payload)
                if event["type"] == "error":
                    raise BenchError(f"the server refused something: {event}")
                return event
            if opcode != 0x80 | PING:
                raise BenchError(f"the server ended the connection of {self.mid}: {payload!r}")
            self._send(PONG, payload)

    def until(self, type: str, count: int = 1) -> list[dict[str, Any]]:
        """All events up to the next one of this type, or the next `count` ones."""
        events = []
        while count:
            events.append(self.next())
            count -= events[-1]["type"] == type
        return events

    def ask(self, type: str, **keys: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.say(type, **keys)
        return self.until("ok")[-1]


@dataclass(frozen=True)
class Subject:
    """Whose calls are measured, and in which room. `missed`: in how many entries each, and in which rooms, the 100
    missed messages are. `mark(n)`: where the n-th read mark is moved; always forward. `says`: whether to send, too."""

    mid: str
    rid: str
    rooms: int
    missed: tuple[int, tuple[str, ...]]
    mark: Callable[[int], tuple[str, int]]
    says: bool = True


def subjects(size: Size, step: int) -> dict[str, Subject]:
    """Who is measured in a store of this size, which is the one with the number `step`: by what grows for them."""
    far = 2 + 100 * step  # read marks of each step are above those of the last

    def some_room(n: int) -> tuple[str, int]:
        return room(n % 10), 2 + 20 * step + n // 10

    return {
        "rooms": Subject(ROAMER, room(0), size.rooms, (20, tuple(map(room, range(5, 10)))), some_room),
        "members": Subject(one_of(0), CROWD, 1, (100, (CROWD,)), lambda n: (CROWD, far + n), says=False),
        "messages": Subject(author(0), LOG, 1, (100, (LOG,)), lambda n: (LOG, far + n)),
    }


def measure(server: Server, subject: Subject) -> Figures:
    """For each of MEASURES, in milliseconds: the median, and under quick() of its name what a tenth of the tries took.

    What another program takes of the machine makes some tries slower, and none quicker.
    """
    times = dict(connecting(server, subject))
    with closing(Connection(server.ws_port, subject.mid)) as connection:
        connection.until("caught_up", subject.rooms)
        times |= asking(connection, subject)
    with closing(http.client.HTTPConnection("127.0.0.1", server.api_port, timeout=PATIENCE)) as api:
        times |= calling(api, subject)
    figures = {key: statistics.median(seconds) * 1000 for key, seconds in times.items()}
    return figures | {quick(key): statistics.quantiles(seconds, n=10)[0] * 1000 for key, seconds in times.items()}


def quick(key: str) -> str:
    """The name of the figure for a measure's quickest tries."""
    return f"{key}, quick"


def timed(work: Callable[[int], None]) -> list[float]:
    """How many seconds work(n) takes, try for try."""
    times = []
    for n in range(TRIES):
        begin = perf_counter()
        work(n)
        times.append(perf_counter() - begin)
    return times


def connecting(server: Server, subject: Subject) -> Iterator[tuple[str, list[float]]]:
    """Connecting as one who has all, and as one who has missed something."""
    hellos: list[float] = []
    lives: list[float] = []
    hello: dict[str, Any] = {}
    for _ in range(TRIES):
        begin = perf_counter()
        with closing(Connection(server.ws_port, subject.mid)) as connection:
            hellos.append(perf_counter() - begin)
            hello = connection.hello
            connection.until("caught_up", subject.rooms)
            lives.append(perf_counter() - begin)
    if len(hello["rooms"]) != subject.rooms or not any(room["unread"] for room in hello["rooms"]):
        raise BenchError(f"{subject.mid} has other rooms than they should: {hello}")
    yield "hello", hellos
    yield "live", lives

    heads = {room["rid"]: room["head"] for room in hello["rooms"]}
    entries, rids = subject.missed
    resume = {"epoch": hello["epoch"], "rooms": {rid: heads[rid] - entries for rid in rids}}

    def catch_up(_: int) -> None:
        with closing(Connection(server.ws_port, subject.mid, resume)) as connection:
            events = connection.until("caught_up", subject.rooms)
        got = [(event["rid"], event["seq"]) for event in events if event["type"] == "message"]
        if sorted(got) != [
            (rid, seq) for rid in sorted(rids) for seq in range(heads[rid] - entries + 1, heads[rid] + 1)
        ]:
            raise BenchError(f"{subject.mid} missed {len(rids)} times {entries} messages and was sent {got}")

    yield "missed", timed(catch_up)


def asking(connection: Connection, subject: Subject) -> Iterator[tuple[str, list[float]]]:
    """Commands over a connection that is there."""
    rid, rooms = subject.rid, connection.hello["rooms"]
    head = next(room["head"] for room in rooms if room["rid"] == rid)

    def unread(_: int) -> None:
        if connection.ask("rooms")["rooms"] != rooms:
            raise BenchError(f"{subject.mid} was told other unread counts in `rooms` than in `hello`")

    yield "unread", timed(unread)

    def page(last: int, **where: int) -> Callable[[int], None]:
        def ask(_: int) -> None:
            seqs = [message["seq"] for message in connection.ask("history", rid=rid, limit=PAGE, **where)["messages"]]
            if len(seqs) != PAGE or seqs != sorted(set(seqs)) or seqs[-1] > last:
                raise BenchError(f"{subject.mid} asked for history {where} in {rid} and got {seqs}")

        return ask

    yield "newest", timed(page(head))
    yield "middle", timed(page(head // 2 - 1, before=head // 2))
    yield "oldest", timed(page(3 * PAGE, after=0))

    def read(n: int) -> None:
        to, seq = subject.mark(n)
        connection.ask("read", rid=to, seq=seq)

    yield "read", timed(read)

    def say(n: int) -> None:
        connection.say("send", rid=rid, text="here I am", cid=f"say{head}-{n}")
        events = connection.until("ok")
        if not any(event["type"] == "message" for event in events):
            connection.until("message")

    if subject.says:
        yield "say", timed(say)


def calling(api: http.client.HTTPConnection, subject: Subject) -> Iterator[tuple[str, list[float]]]:
    """REST calls on a connection that stays open."""

    def get(path: str, what: str, at_least: int) -> Callable[[int], None]:
        def ask(_: int) -> None:
            api.request("GET", path)
            response = api.getresponse()
            body = response.read()
            if response.status != 200 or len(msgspec.json.decode(body)["body"][what]) < at_least:
                raise BenchError(f"GET {path}: {response.status} {body[:300].decode(errors='replace')}")

        return ask

    yield "rest_rooms", timed(get(f"/api/members/{subject.mid}/rooms", "rooms", subject.rooms))
    yield "rest_members", timed(get(f"/api/rooms/{subject.rid}/members?limit={NAMES}", "members", 1))
    yield "rest_messages", timed(get(f"/api/rooms/{subject.rid}/messages?limit={PAGE}", "messages", 1))
