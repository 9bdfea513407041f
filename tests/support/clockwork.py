"""A node without sockets, threads or time: the core on a Clock, over the memory store behind a gate, with devices that
do only what a test tells them to. For tests of what happens exactly when.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from autobahn.wamp import message as wamp
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer

from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.domain import commands
from mercury.errors import MercuryError
from mercury.interfaces import IBus, IConnection, IDirectWriter
from mercury.node.build import make_chat
from mercury.settings.limits import Limits
from mercury.settings.schema import Config, Wamp
from mercury.stores.memory.store import MemoryStore
from mercury.websocket.framing import BINARY
from mercury.websocket.wamp.dialect import WampDialect
from mercury.websocket.wamp.encoders import WampEncoders
from mercury.websocket.wamp.messages import Packer
from tests.support.in_process_node import DIALECT
from tests.support.wamp_words import INBOX, SERIALIZERS, SIGNALS, Words

T = TypeVar("T")

_numbers = itertools.count(1)

SETTINGS = Wamp(authmethods="ticket")
WIRES = {name: WampEncoders(Packer(f"wamp.2.{name}", Limits(json_depth=50)), deflate=False) for name in SERIALIZERS}


class Gate:
    """Stands before a store. `shut`: calls by these names wait for open_gate(). `down`: all fail, nothing is done.
    `deaf`: writes are done, but their answers are lost."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.shut: set[str] = set()
        self.down = False
        self.deaf = False
        self.calls: list[str] = []
        self._waiting: list[tuple[Deferred[Any], Any, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Deferred[Any]:
            self.calls.append(name)
            if self.down:
                return fail(MercuryError("unavailable", "the store is away", 1.0))
            if name in self.shut:
                answer: Deferred[Any] = Deferred()
                self._waiting.append((answer, found, args))
                return answer
            result: Deferred[Any] = found(*args)
            if self.deaf and name == "append":
                return fail(MercuryError("unavailable", "the store did not answer", 1.0))
            return result

        return call

    def open_gate(self) -> None:
        """Do what waits, in order, and let everything through."""
        self.shut.clear()
        waiting, self._waiting = self._waiting, []
        for answer, call, args in waiting:
            call(*args).chainDeferred(answer)


class Clockwork:
    """The node. `settle()` lets everything happen that needs no time."""

    def __init__(self, bus: IBus | None = None, beside: Clockwork | None = None, wamp: str = "", **limits: Any) -> None:
        """`beside`: another node, whose store and clock this one shares, and whom it hears of by `bus`. `wamp`: the
        serialization in which its devices speak WAMP, if they do."""
        rooms = limits.get("rooms_per_member", 0)
        self.wamp = wamp
        self.clock: Clock = beside.clock if beside else Clock()
        self.store: Gate = beside.store if beside else Gate(MemoryStore(rooms))
        config = Config(limits=Limits(**limits))
        self.chat: Chat = make_chat(self.clock, self.store, config, bus)  # type: ignore[arg-type]
        if beside is None:
            self.now(self.store.open())
        self.now(self.chat.cluster.open())
        self.chat.heartbeat.start()
        self.wall = 1_000_000.0
        self.chat.tokens._wall = lambda: self.wall

    def settle(self) -> None:
        """Let what is due happen, and what follows from it."""
        for _ in range(20):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """Let time go by, in small steps."""
        for _ in range(round(seconds * 20) + 1):
            self.clock.advance(0.05)
        self.settle()

    def now(self, work: Coroutine[Any, Any, T] | Deferred[T]) -> T:
        """The result of something that needs no time. Raises what it raised."""
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        results: list[Any] = []
        deferred.addCallbacks(results.append, results.append)
        self.settle()
        assert results, "it waits for something"
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        result: T = results[0]
        return result

    def join(self, rid: str, *members: str) -> None:
        """Put members into a room."""
        self.now(self.chat.rooms.join(rid, members))

    def post(self, rid: str, *texts: str, member: str = "") -> None:
        """Say something in the application's name, or a member's."""
        for text in texts:
            self.now(self.chat.rooms.post(member, rid, text))

    def device(self, member: str = "ann", name: str = "", *, login: bool = True) -> Device:
        """A connected device; its login runs as far as the store lets it."""
        device = WampDevice(self, member, name) if self.wamp else Device(self, member, name)
        if login:
            device.enter(self.token(member))
        return device

    def token(self, member: str) -> str:
        """A new token."""
        secret, _ = self.now(self.chat.tokens.make(member))
        return secret

    def delivered(self, member: str, rid: str, device: str = "") -> int | None:
        """The stored cursor of a device."""
        places = self.now(self.store.store.memberships(member, device))
        return next(place.delivered for place in places if place.rid == rid)


@implementer(IDirectWriter)
class FickleSocket:
    """A socket that takes all that a room hears, nothing, or a part, in turn."""

    sqe = b""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._asked = 0
        self.begun = b""
        self.send: Callable[[bytes], int] = self.take

    def take(self, data: bytes) -> int:
        self._asked += 1
        match self._asked % 4:
            case 0:
                raise BlockingIOError("full for now, on purpose")
            case 1:
                self.begun += data[:5]
                return 5
        self._write(data)
        return len(data)


@implementer(IConnection)
class Device:
    """A connection in a test's hands. `heard`: what it was told. `full`: its socket takes nothing, from the next write
    on. `pings`: those not answered yet."""

    def __init__(self, node: Clockwork, member: str, name: str) -> None:
        self.node = node
        self.member = member
        self.name = name
        self.peer = f"{member}/{name}"
        self.number = next(_numbers)
        self.heard: list[dict[str, Any]] = []
        self.writes = 0
        self.direct = FickleSocket(self.write)
        self.pings: list[bytes] = []
        self.code: int | None = None
        self.held = False
        self.full = False
        self.broken = False
        self.taken = 0
        self.session = self.make_session()

    def make_session(self) -> Session:
        return Session(self.node.chat, self, DIALECT)

    def enter(self, secret: str) -> None:
        """Log in with a token, as a connection does whose URL has one."""
        token = self.node.now(self.node.chat.tokens.check(secret, self.member))
        self.session.login(token, self.node.clock.seconds(), self.name)
        self.node.settle()

    def connect(self, secret: str, resume: commands.Resume | None = None) -> None:
        """Log in by the first frame, as far as the store lets that happen."""
        self.session.await_connect()
        self.give(commands.Connect(token=secret, member=self.member, device=self.name, resume=resume))
        self.node.settle()

    # IConnection

    def write(self, data: bytes) -> None:
        if self.broken:
            raise OSError("broken on purpose")
        self.writes += 1
        data, self.direct.begun = self.direct.begun + data, b""
        self.heard += self.read(data)
        if self.full and not self.session.is_slow:
            self.session.slow()

    def read(self, data: bytes) -> list[dict[str, Any]]:
        """What these bytes tell."""
        return [json.loads(line) for line in data.splitlines()]

    def ping(self, payload: bytes) -> None:
        if self.broken:
            raise OSError("broken on purpose")
        self.pings.append(payload)

    def close(self, code: int, reason: str) -> None:
        self.code = code

    def abort(self) -> None:
        self.node.clock.callLater(0, self.lose)

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False

    def bytes_taken(self) -> int:
        return self.taken

    # What a test does with it

    def lose(self) -> None:
        """The connection breaks."""
        self.code = 1006
        self.session.closed(1006)

    def say(self, rid: str, text: str, ref: int = 0, cid: str | None = None) -> None:
        """Send a message; nothing settles."""
        self.give(commands.Send(rid=rid, text=text, ref=ref, cid=cid))

    def give(self, command: commands.Command) -> None:
        """Give a command; nothing settles."""
        self.session.receive(command)

    def do(self, command: commands.Command) -> list[dict[str, Any]]:
        """Give a command and return what it brought."""
        before = len(self.heard)
        self.give(command)
        self.node.settle()
        return self.heard[before:]

    def pong(self) -> None:
        """Answer the oldest ping."""
        self.session.pong(self.pings.pop(0))
        self.node.settle()

    def drain(self) -> None:
        """The socket takes everything that waited."""
        self.full = False
        self.session.drained()
        self.node.settle()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What it was told of this type."""
        return [event for event in self.heard if event["type"] == kind]

    def texts(self) -> list[str]:
        """The messages that it was shown."""
        return [event["text"] for event in self.of("message")]

    def refs(self) -> list[Any]:
        """What was answered, in order."""
        return [event["ref"] for event in self.heard if event["type"] in ("ok", "error") and "ref" in event]


class WampDevice(Device):
    """The same one speaking WAMP, and `heard` in mercury.v2.json's words. It subscribes to `topics` when it logs in, by
    default to all that v2 is told. `agent`: what its handshake says it is."""

    topics: Sequence[str] | None = None
    agent = "a device"

    def make_session(self) -> Session:
        self.words = Words(self.node.wamp)
        self.challenged = False
        self.asked = 0
        return Session(self.node.chat, self, WampDialect(WIRES[self.node.wamp], SETTINGS, None, self.agent))

    def enter(self, secret: str) -> None:
        self.connect(secret)

    def connect(self, secret: str, resume: commands.Resume | None = None) -> None:
        self.session.await_connect()
        more = {"resume": msgspec.to_builtins(resume)} if resume else {}
        self._hear(self.words.hello(self.member, device=self.name, **more))
        assert self.challenged
        self._hear(wamp.Authenticate(secret))
        for topic in (INBOX,) if self.topics is None else self.topics:
            self.tell(type="subscribe", topic=topic)
        self.node.settle()
        if self.topics is None:
            rids = [state["rid"] for hello in self.of("hello") for state in hello["rooms"]]
            for topic in [f"mercury.room.{rid}.{kind}" for rid in rids for kind in SIGNALS]:
                self.tell(type="subscribe", topic=topic)
            self.node.settle()

    def read(self, data: bytes) -> list[dict[str, Any]]:
        heard = []
        while data:
            binary, size, start = data[0] == BINARY, data[1], 2
            if size > 125:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start])
            for message in self.words.unpacked(data[start : start + size], binary):
                if isinstance(message, wamp.Challenge):
                    self.challenged = True
                elif (frame := self.words.frame(message)) != {"type": "ok"}:  # what answers its own subscribing
                    heard.append(frame)
            data = data[start + size :]
        return heard

    def give(self, command: commands.Command) -> None:
        tag = type(command).__struct_config__.tag or "nonsense"
        fields = {} if isinstance(command, commands.Bad) else msgspec.to_builtins(command)
        self.tell(**{**fields, "type": tag, "ref": command.ref})

    def tell(self, **frame: Any) -> None:
        """Say something in v2's words, or those that WAMP has beside; nothing settles."""
        self._hear(self.words.message(frame))

    def ask(self, **frame: Any) -> dict[str, Any]:
        """Say something, and return what is answered."""
        self.asked += 1
        ref = f"asked {self.asked}"
        self.tell(**frame, ref=ref)
        self.node.settle()
        return next(event for event in self.heard if event.get("ref") == ref)

    def _hear(self, message: wamp.Message) -> None:
        self.session.on_frame(*self.words.packed(message))
