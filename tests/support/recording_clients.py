"""Test clients: a member's device that connects, speaks, comes back, and writes everything down. Here are those of the
first Mercury's protocol and of mercury.v2.json; WAMP's (wamp_client.py) and goTalk's (gotalk_client.py) build on them.

They are deliberately plain: what they do not do by themselves (retrying, resuming, waiting) a test does with them.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from autobahn.exception import Disconnected
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.support.recorder import Ask, Connection, Record, Seen

PATIENCE = 20.0  # seconds; far more than anything here needs on a machine that works

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Where(NamedTuple):
    """Where a server listens: for WebSockets, for REST, and for goTalk's calls."""

    ws: int
    api: int = 0
    gotalk: int = 0
    host: str = "127.0.0.1"


async def until(what: Callable[[], object], why: str | Callable[[], str] = "it") -> None:
    """Wait until `what` is true; AssertionError if that does not happen within PATIENCE."""
    waited = 0.0
    while not what():
        if waited > PATIENCE:
            raise AssertionError(f"{why if isinstance(why, str) else why()} did not happen within {PATIENCE:.0f} s")
        step = min(0.001 + waited / 20, 0.05)
        waited += step
        await deferLater(reactor, step)


class RefusedError(Exception):
    """The connection did not come about, or ended."""


class _Link(WebSocketClientProtocol):
    """One WebSocket, as Autobahn's client sees it."""

    client: Client
    transport: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        self.client.link = self

    def onOpen(self) -> None:
        self.client.opened()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.client.link is self:
            self.client.receive(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.client.link is self:
            self.client.lost(code, reason)


class _Factory(WebSocketClientFactory):
    protocol = _Link

    def __init__(self, client: Client, url: str, protocols: Sequence[str]) -> None:
        super().__init__(url, protocols=list(protocols))  # type: ignore[no-untyped-call]
        self.setProtocolOptions(  # type: ignore[no-untyped-call]
            autoPingInterval=0, openHandshakeTimeout=PATIENCE, closeHandshakeTimeout=1
        )
        self.client = client
        client.options(self)

    def buildProtocol(self, addr: Any) -> Any:
        link: Any = super().buildProtocol(addr)
        link.client = self.client
        return link

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.client.lost(None, reason.getErrorMessage())


class Client(ABC):
    """A member's device. `open` while it is connected and logged in; `closes` has the code and reason of each end."""

    protocol = ""
    subprotocols: tuple[str, ...] = ()
    everything = False

    def __init__(self, record: Record, where: Where, member: str, token: str, device: str = "") -> None:
        self.record = record
        self.where = where
        self.member = member
        self.token = token
        self.device = device
        self.name = f"{member}/{device or self.protocol}"
        self.link: _Link | None = None
        self.open = False
        self.reading = True
        self.closes: list[tuple[int | None, str | None]] = []
        self.errors: list[dict[str, Any]] = []
        self.has: dict[str, int] = {}  # room -> the last seq that it has
        self.connection = Connection(self.name)
        self.waiting: dict[Any, Ask] = {}  # what was asked and not answered
        self.payloads = itertools.count(1)
        self._ready: Deferred[None] | None = None
        record.devices[self.name] = member

    # Coming and going

    async def connect(self, **how: Any) -> None:
        """Open a connection and log in. RefusedError if that fails."""
        self.open, self.reading, self.link = False, True, None
        self._ready = Deferred()
        self._how = how
        url = f"ws://{self.where.host}:{self.where.ws}/ws/connect{self._query()}"
        factory = _Factory(self, url, self.subprotocols)
        reactor.connectTCP(self.where.host, self.where.ws, factory)
        await self._ready.addTimeout(PATIENCE, reactor)

    def options(self, factory: WebSocketClientFactory) -> None:  # noqa: B027 - most have none
        """A subclass may set more of Autobahn's options."""

    def _query(self) -> str:
        return "?" + urlencode({"token": self.token, "member": self.member, "device": self.device})

    def opened(self) -> None:
        """The WebSocket is open."""
        self.begin(None)

    def begin(self, resumed: dict[str, int] | None) -> None:
        """Logged in: what comes now belongs to a new connection in the record."""
        self.connection = Connection(self.name, resumed, everything=self.everything)
        self.record.connections.append(self.connection)
        self.open = True
        self._settle(None)

    def lost(self, code: int | None, reason: str | None) -> None:
        """The connection is gone, or never was."""
        self.open, self.link = False, None
        self.closes.append((code, reason))
        self._settle(Failure(RefusedError(f"{self.name}: {code} {reason}")))

    def _settle(self, result: Any) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(result)

    def abort(self) -> None:
        """Break the connection off; what was on its way is lost."""
        link, self.link, self.open = self.link, None, False
        if link is not None:
            link.transport.abortConnection()

    async def close(self) -> None:
        """Say goodbye."""
        if self.link is not None:
            self.link.sendClose(1000)
            await until(lambda: not self.open, f"the closing of {self.name}")

    def stop_reading(self) -> None:
        """Leave what comes in the socket."""
        if self.link is not None:
            self.reading = False
            self.link.transport.pauseProducing()

    def read_again(self) -> None:
        """Take it out again."""
        if self.link is not None:
            self.reading = True
            self.link.transport.resumeProducing()

    # Speaking and hearing

    def write(self, **frame: Any) -> None:
        """Send one frame."""
        self.send(_encode(frame))

    def send(self, payload: bytes, binary: bool = False) -> None:
        """Send one WebSocket message. On a connection that is closing it is lost."""
        if self.link is not None:
            with suppress(Disconnected):
                self.link.sendMessage(payload, binary)  # type: ignore[no-untyped-call]

    def receive(self, payload: bytes, binary: bool) -> None:
        """A WebSocket message came in."""
        self.hear(_decode(payload))

    def text(self, tail: str = "") -> str:
        """A text that nobody else sends."""
        return f"{self.name}-{next(self.payloads)}{tail}"

    @abstractmethod
    def say(self, rid: str, text: str, cid: str | None = None) -> Ask:
        """Send a message; what comes of it is noted in the Ask."""

    @abstractmethod
    def hear(self, frame: dict[str, Any]) -> None:
        """A frame came in."""

    @abstractmethod
    async def history(self, rid: str, page: int = 100) -> list[Seen]:
        """All messages of a room, oldest first, read in pages. Nothing live may come meanwhile."""

    def saw(self, seen: Seen) -> None:
        """An entry was shown."""
        if seen.rid not in self.record.closed:
            self.connection.seen.setdefault(seen.rid, []).append(seen)
        self.has[seen.rid] = seen.seq


def shown(frame: dict[str, Any]) -> Seen:
    """The entry in a frame of either protocol."""
    kind = frame.get("type", "message")
    members = tuple(frame.get("members", ()))
    id, mid, text = frame.get("id", 0), frame.get("mid", ""), frame.get("text", "")
    return Seen(frame["rid"], frame["seq"], id, kind, mid, text, members)


class V1Client(Client):
    """The first Mercury's protocol: a message is acknowledged by its echo, an error belongs to no message."""

    protocol = "v1"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pages: list[Seen] | None = None
        self.doubtful: dict[Any, Ask] = {}  # asked, and one of them was refused

    def say(self, rid: str, text: str, cid: str | None = None) -> Ask:
        ask = Ask(self.name, self.member, rid, text)
        self.record.asks.append(ask)
        self.waiting[rid, text] = ask
        self.write(type=1, rid=rid, text=text)
        return ask

    def hear(self, frame: dict[str, Any]) -> None:
        if frame.get("type") == 0:
            self.errors.append(frame)
            if self.pages is not None:  # the end of a page
                return
            if len(self.waiting) == 1:  # then it is clear which
                self.waiting.popitem()[1].refused(frame["code"])
            elif self.waiting:  # else it is not: it may be any of them, and their echoes may still come
                key = next(iter(self.waiting))
                self.doubtful[key] = self.waiting.pop(key)
            return
        seen = shown(frame)
        if self.pages is not None:
            self.pages.append(seen)
            return
        self.saw(seen)
        key = seen.rid, seen.text
        asked = self.waiting if key in self.waiting else self.doubtful
        if seen.mid == self.member and key in asked:
            ask = asked.pop(key)
            ask.outcome = "ok"
            ask.answers.append((seen.seq, seen.id, None))

    async def history(self, rid: str, page: int = 100) -> list[Seen]:
        found: list[Seen] = []
        before: dict[str, int] = {}
        while before.get("msgid") != 0:
            self.pages = []
            self.write(type=2, rid=rid, offset=page, **before)
            self.write(type=2, rid=rid, offset=-1)  # its error marks the end of the page
            errors = len(self.errors)
            await until(lambda n=errors: len(self.errors) > n, f"a page of history for {self.name}")  # type: ignore[misc]
            read, self.pages = self.pages, None
            self.record.pages.append(read)
            found = read + found
            before = {"msgid": read[0].id if read else 0}
        return found


class CidClient(Client):
    """One that is told what became of each of its messages, and can send a message again."""

    def say(self, rid: str, text: str, cid: str | None = None) -> Ask:
        ask = Ask(self.name, self.member, rid, text, cid)
        self.record.asks.append(ask)
        self.repeat(ask)
        return ask

    @abstractmethod
    def repeat(self, ask: Ask) -> None:
        """Send it (again)."""


class FluentClient(CidClient):
    """One that is shown everything, and where answers say what they answer. A test speaks to it in mercury.v2.json's
    frames, and finds what it was told in the same ones, whatever goes over the wire."""

    everything = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = ""
        self.refs = itertools.count(1)
        self.answers: dict[int, dict[str, Any]] = {}
        self.hello: dict[str, Any] = {}
        self.others: list[dict[str, Any]] = []

    def _query(self) -> str:
        return ""

    def resume(self) -> dict[str, Any]:
        """What to say at login of where this device is, if anything."""
        resumes = self._how.get("resume", True) and bool(self.epoch)
        self.claimed = dict(self.has) if resumes else None
        return {"resume": {"epoch": self.epoch, "rooms": self.claimed}} if resumes else {}

    async def hear_signals(self, rid: str) -> None:
        """Hear of typing, presence and read marks in a room."""

    def hear(self, frame: dict[str, Any]) -> None:
        kind, ref = frame["type"], frame.get("ref")
        if kind in ("message", "joined", "left"):
            self.saw(shown(frame))
        elif kind == "hello":
            self.hello, self.epoch = frame, frame["epoch"]
            self.begin(self.claimed)
        elif ref in self.waiting:
            self._answered(self.waiting.pop(ref), frame)
        elif kind in ("ok", "error") and ref is not None:
            self.answers[ref] = frame
        elif kind == "error":
            self.errors.append(frame)
        else:
            self.others.append(frame)

    def _answered(self, ask: Ask, frame: dict[str, Any]) -> None:
        if frame["type"] == "ok":
            ask.outcome = "ok"
            ask.answers.append((frame["seq"], frame["id"], frame["duplicate"]))
        elif ask.outcome == "info":
            ask.refused(frame["code"])

    def repeat(self, ask: Ask) -> None:
        ref = next(self.refs)
        self.waiting[ref] = ask
        ask.tries += 1
        frame = {"type": "send", "rid": ask.rid, "text": ask.text, "ref": ref}
        self.write(**frame, **({"cid": ask.cid} if ask.cid else {}))

    async def ask(self, **frame: Any) -> dict[str, Any]:
        """Send a command that is no message, and return its answer."""
        ref = next(self.refs)
        self.write(**frame, ref=ref)
        await until(lambda: ref in self.answers or not self.open, f"the answer to {frame.get('type')}")
        return self.answers.pop(ref, {"type": "lost"})

    async def newest(self, rid: str, **bounds: int) -> tuple[list[Seen], bool]:
        """One page of history: the newest messages, or those within the bounds; and whether there are more."""
        answer = await self.ask(type="history", rid=rid, **bounds)
        read = [shown({**message, "type": "message"}) for message in answer.get("messages", ())]
        self.record.pages.append(read)
        return read, answer.get("more", False)

    async def history(self, rid: str, page: int = 100) -> list[Seen]:
        found: list[Seen] = []
        more = True
        while more:
            read, more = await self.newest(rid, after=found[-1].seq if found else 0, limit=page)
            found += read
        return found


class V2Client(FluentClient):
    """mercury.v2.json, with the token in the first frame."""

    protocol = "v2"
    subprotocols = ("mercury.v2.json",)

    def opened(self) -> None:
        self.write(type="connect", token=self.token, member=self.member, device=self.device, **self.resume())
