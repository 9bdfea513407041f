"""goTalk's people write to each other while a proxy cuts the answers they get at random bytes.

Half of them ack what they have received, and must see each message once; the others are old clients that do not, and
may see some again. Whoever gets half an answer has got nothing, and asks again; who cannot know whether a message was
taken sends it again with its cid. The cuts of those who ack reset the connection or close it properly, by turns; the
others' reset it, since nobody can tell a proxy that has read all and passes on a half from a client that has read all.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.promises.checker import summary
from tests.support.free_ports import free_port
from tests.support.lossy_proxy import ALL, LossyProxy
from tests.support.recording_clients import until
from tests.support.server_process import Server

reactor: Any = installed

USERS: Final = 50
MESSAGES: Final = 10_000
CUT: Final = 0.2  # of the answers are cut, if they are long enough
PASSES: Final = 400.0  # bytes of them are passed on, on average
WAIT: Final = 1  # seconds of a long poll
UNLIMITED: Final = "limits.messages-per-second", "limits.connections-per-address"
SECONDS: Final = 60.0  # without an answer: something hangs


class Cutter(LossyProxy):
    """The proxy before goTalk's port. `cuts`: how many. `politely`: some of them without reset."""

    def __init__(self, port: int, seed: str, politely: bool) -> None:
        super().__init__(port)
        self.rng = random.Random(seed)
        self.politely = politely
        self.cuts = 0

    def bytes_of_answer_to(self, asked: bytes) -> int:
        """A request comes, one at a time: what will become of its answer?"""
        return int(self.rng.expovariate(1 / PASSES)) if self.rng.random() < CUT else ALL

    def closes_rudely(self) -> bool:
        self.cuts += 1
        return not (self.politely and self.rng.random() < 0.5)


class RefusalError(AssertionError):
    """The answer is an error. `code`: which."""

    def __init__(self, status: bytes, body: bytes) -> None:
        super().__init__(f"the answer is {status!r}: {body!r}")
        self.code = msgspec.json.decode(body).get("code", "")


class Http(Protocol):
    """One HTTP/1.1 connection, which is kept for the next request as long as it lives."""

    transport: Any

    def __init__(self) -> None:
        self._data = b""
        self._answer: Deferred[Any] | None = None
        self.is_open = True

    def post(self, path: str, fields: dict[str, Any]) -> Deferred[Any]:
        """What is answered, decoded; fails if it does not come whole, and with RefusalError if it is none with 200."""
        body = urlencode(fields).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        self._answer = Deferred()
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return self._answer.addTimeout(SECONDS, reactor)

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if found:
            lines = head.lower().split(b"\r\n")
            length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            if len(rest) >= length:
                self._data = b""
                if head.startswith(b"HTTP/1.1 200"):
                    self._answered(msgspec.json.decode(rest))
                else:
                    self._answered(Failure(RefusalError(lines[0], rest)))

    def _answered(self, result: Any) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(result)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        self._answered(reason)


class Person:
    """One of goTalk's people. `got`: the messages of whole answers, in order."""

    def __init__(self, name: str, acks: bool) -> None:
        self.name = name
        self.acks = acks
        self.fields: dict[str, Any] = {}
        self.got: list[dict[str, Any]] = []
        self.port = 0
        self.talking = False

    async def enter(self, port: int) -> None:
        """Register and log in."""
        who = {"username": self.name, "password": f"the password of {self.name}"}
        http = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Http())
        await http.post("/register", who)
        user = await http.post("/login", who)
        http.transport.loseConnection()
        self.id: int = user["Id"]
        self.fields = {"id": self.id, "token": user["SessionID"]}

    async def say(self, said: list[tuple[int, str]]) -> None:
        """Send these texts one after the other, each until that is answered."""
        http = None
        for receiver, text in said:
            form = {**self.fields, "username": self.name, "sendToId": receiver, "content": text, "cid": text}
            done = False
            while not done:
                http = await self._open(http)
                try:
                    assert await http.post("/send", form) == "message received"
                    done = True
                except ConnectionClosed:
                    pass
        if http is not None:
            http.transport.loseConnection()

    async def hear(self) -> None:
        """Sync again and again."""
        http = None
        while self.talking:
            http = await self._open(http)
            last = {"ack": self.got[-1]["Id"] if self.got else 0} if self.acks else {}
            try:
                answer = await http.post("/sync", {**self.fields, **last, "wait": WAIT})
            except ConnectionClosed:
                continue
            if answer != "no message":
                self.got += answer
        if http is not None:
            http.transport.loseConnection()

    async def _open(self, http: Http | None) -> Http:
        while http is None or not http.is_open:
            try:
                http = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Http())
            except ConnectError:
                http = None
        return http


class Town:
    """A node with goTalk's door, and its people before two proxies."""

    def __init__(self, folder: Path) -> None:
        ports = free_port(), free_port(), free_port()
        self.server = Server(folder, ports, *[f"--{name}=0" for name in UNLIMITED])
        self.gotalk = self.server.where.gotalk
        self.people = [Person(f"person {number}", acks=number % 2 == 0) for number in range(USERS)]
        self._before: set[str] = set()

    async def begin(self) -> None:
        """Start the node; all register and log in."""
        await self.server.start()
        await gatherResults([Deferred.fromCoroutine(person.enter(self.gotalk)) for person in self.people])

    async def close(self) -> None:
        """End the node."""
        if self.server.processes:
            await self.server.kill()

    async def round(self, seed: str) -> list[str]:
        """All write to each other, and read. What is wrong with what they got; `figures` has what was measured."""
        rng = random.Random(seed)
        said: dict[int, list[tuple[int, str]]] = {person.id: [] for person in self.people}
        for number in range(MESSAGES):
            one, other = rng.sample(self.people, 2)
            said[one.id].append((other.id, f"{seed}/{one.id}/{other.id}/{number}"))
        cutters = {acks: Cutter(self.gotalk, f"{seed} {acks}", politely=acks) for acks in (False, True)}
        began = time.monotonic()
        for person in self.people:
            person.got, person.talking, person.port = [], True, cutters[person.acks].own_port
        hearing = gatherResults([Deferred.fromCoroutine(person.hear()) for person in self.people])
        try:
            await gatherResults([Deferred.fromCoroutine(person.say(said[person.id])) for person in self.people])
            want = expected(said)
            await until(
                lambda: hearing.called or all(want[p.id] <= {m["Content"] for m in p.got} for p in self.people),
                lambda: (
                    f"hearing all: {[(p.name, len(want[p.id] - {m['Content'] for m in p.got})) for p in self.people]}"
                ),
            )
        finally:
            for person in self.people:
                person.talking = False
            await hearing
            for cutter in cutters.values():
                await cutter.close()
        self.figures = {
            "seconds": time.monotonic() - began,
            "cuts": sum(cutter.cuts for cutter in cutters.values()),
            "seen_again": sum(len(person.got) for person in self.people) - MESSAGES,
            "resident_mb": self.server.resident_kb() / 1024,
            "descriptors": self.server.descriptors(),
        }
        for person in self.people:  # what was not proved to have arrived in an earlier round comes again
            person.got = [message for message in person.got if message["Content"] not in self._before]
        self._before.update(text for texts in said.values() for _, text in texts)
        return [line for person in self.people for line in wrong(person, said)]


def expected(said: dict[int, list[tuple[int, str]]]) -> dict[int, set[str]]:
    """What each is to get."""
    found: dict[int, set[str]] = defaultdict(set)
    for texts in said.values():
        for receiver, text in texts:
            found[receiver].add(text)
    return found


def wrong(person: Person, said: dict[int, list[tuple[int, str]]]) -> list[str]:
    """What is wrong with what a person got: lost, invented, out of order, or seen again though it was acked."""
    found = []
    by_sender: dict[int, list[str]] = defaultdict(list)
    seqs: dict[int, list[int]] = defaultdict(list)
    for message in person.got:
        again = message["Content"] in by_sender[message["UserIdSend"]]
        if again and person.acks:
            found.append(f"I1 {person.name} acked {message['Content']} and got it again")
        if not again:
            by_sender[message["UserIdSend"]].append(message["Content"])
            seqs[message["UserIdSend"]].append(message["Seq"])
    for sender, texts in said.items():
        for_them = [text for receiver, text in texts if receiver == person.id]
        got = by_sender.pop(sender, [])
        if lost := set(for_them) - set(got):
            found.append(f"I1 {person.name} never got {min(lost)} ({len(lost)} are lost)")
        if invented := set(got) - set(for_them):
            found.append(f"I2 {person.name} got {min(invented)}, which was not said to them")
        if sorted(got, key=for_them.index) != got if not invented else False:
            found.append(f"I3 {person.name} got what {sender} said in another order")
        if sorted(seqs[sender]) != seqs[sender]:
            found.append(f"I3 the Seqs that {person.name} got from {sender} do not grow")
    found += [f"I2 {person.name} got messages of {sender}, who is nobody" for sender, got in by_sender.items() if got]
    return found


async def play(folder: Path, rounds: int, seed: int) -> tuple[list[str], dict[str, float]]:
    """Some rounds, each with a seed of its own: what was wrong in any, and of each figure the greatest."""
    town = Town(folder)
    found: list[str] = []
    most: dict[str, float] = {}
    try:
        await town.begin()
        for number in range(rounds):
            wrong = await town.round(f"{seed}-{number}")
            shown = " ".join(f"{figure}={value:.4g}" for figure, value in town.figures.items())
            print(f"responses-cut, round {number}: {MESSAGES} messages, {shown}, {summary(wrong)}", flush=True)
            found += wrong
            most = {f: max(value, most.get(f, 0.0)) for f, value in town.figures.items()}
    except AssertionError as why:
        found.append(str(why))
        print(f"responses-cut broke off: {why}\n{town.server.written()[-3000:].decode()}", flush=True)
    finally:
        await town.close()
    return found, most
