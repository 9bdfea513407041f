"""The bus on Redis pub/sub: a channel for each room, and one for all nodes.

A subscriber's connection can look healthy and hear nothing. So each node publishes a beat every two seconds on the
channel of all nodes, and hears its own again, or the bus is down and is connected to anew. That channel is subscribed
to last, so the first beat that comes back also proves that all rooms are subscribed. The other nodes' beats show that
they are alive.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.bus.arrivals import Arrivals
from mercury.bus.redis_subscriber import Subscriber
from mercury.domain.counters import SECONDS, Histogram
from mercury.domain.model import Entry
from mercury.domain.signals import Came, Signal
from mercury.errors import MercuryError
from mercury.interfaces import IBus, IBusListener
from mercury.stores.redis.link import RedisLink, RedisServer
from mercury.stores.sealing import NO_KEYS, Keys

log = Logger()

BEAT: Final = 2.0  # seconds between beats
SILENCE: Final = 5.0  # seconds without one's own beat: the bus is down; without another's: that node is gone
SUBSCRIBING: Final = 2.0  # seconds that subscribe() waits for a confirmation
PAYLOAD: Final = 256 * 1024  # bytes in one message, about
UNSENT: Final = 16 << 20  # bytes that may wait for Redis; more are not sent, but made up for
OWED: Final = 1000  # rooms that are remembered by name for that

#: ARGV: channels and what is published on them, in turn. One command for a batch over many rooms.
PUBLISH_ALL: Final = "for at = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[at], ARGV[at + 1]) end"


class Invalidate(Struct, tag="invalidate"):
    """Some entries of these rooms were not published; None: of any."""

    rids: list[str] | None


class Beat(Struct, tag="beat"):
    """The node is there, or leaves. `at`: when it said so, by its own clock."""

    leaves: bool = False
    at: float = 0.0


class Envelope(Struct, array_like=True):
    """What is published, by a node or, as lua/append.lua says, by the script with which it stores."""

    node: str
    entries: list[Entry] = []
    signal: Signal | Invalidate | Beat | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


def room_channels(server: RedisServer) -> str:
    """What the names of all rooms' channels begin with. A RedisStore is given it to publish there by itself."""
    return server.channel("room:")


@implementer(IBus)
class RedisBus:
    """`store_publishes`: entries are told by the store's script already, so that publish() has nothing to do. `node`:
    what the node is called, drawn if it is not given. `keys`: what texts are sealed with. Both here as in the store.
    """

    is_up = False

    def __init__(
        self,
        reactor: Any,
        server: RedisServer,
        *,
        store_publishes: bool = False,
        node: str = "",
        keys: Keys = NO_KEYS,
    ) -> None:
        self.node = node or secrets.token_hex(6)
        self.lags = Histogram(SECONDS)
        self._reactor = reactor
        self._store_publishes = store_publishes
        self._keys = keys
        self._rooms = room_channels(server)
        self._nodes = _nodes_channel(server)
        self._listener: IBusListener | None = None
        self._publisher = RedisLink(reactor, server)
        self._subscriber = Subscriber(
            reactor, server, self._nodes, heard=self._heard, confirmed=self._confirmed, lost=self._down
        )
        self._waiting: dict[str, Deferred[None]] = {}  # channel -> subscribe() in progress
        self._late: set[str] = set()  # channels whose subscribe() fired before their confirmation
        self._proved = 0.0  # when a beat of our own came back
        self._arrivals = Arrivals(reactor, lambda entries: self._hand_over(lambda ear: ear.entries_received(entries)))
        name = msgspec.msgpack.encode(self.node)
        self._own = (b"\x92" + name, b"\x93" + name)  # what our own messages begin with, the script's and the others
        self._others: dict[str, float] = {}  # node -> when it was heard of
        self._unsent = 0
        self._together: list[str | bytes] = []  # channels and what to publish there, at the turn's end
        self._at_stake: set[str] = set()
        self._owed: set[str] | None = set()  # rooms that the others have to invalidate; None: all
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor

    def open(self, listener: IBusListener) -> Deferred[None]:
        self._listener = listener
        self._proved = self._reactor.seconds()
        tried = gatherResults([self._publisher.open().addErrback(_logged), self._subscriber.open().addErrback(_logged)])
        self._beating.start(BEAT, now=False).addErrback(_broken)
        return tried.addCallback(lambda _: None)

    def close(self) -> Deferred[None]:
        if self._beating.running:
            self._beating.stop()
        if self._publisher.is_up:  # else it would be waited for
            self._send([(self._nodes, Envelope(self.node, signal=Beat(leaves=True)))])
        self._flush()
        self._listener = None
        self.is_up = False
        self._down()
        return gatherResults([self._subscriber.close(), self._publisher.close()]).addCallback(lambda _: None)

    # Telling

    def publish(self, entries: Sequence[Entry]) -> None:
        if self._store_publishes:
            return
        by_room = attrgetter("rid")
        messages = [
            (self._rooms + rid, Envelope(self.node, part))
            for rid, of_room in groupby(sorted(entries, key=by_room), key=by_room)  # sorted() keeps a room's order
            for part in _parts([self._keys.closed(entry) for entry in of_room])
        ]
        self._send(messages, {entry.rid for entry in entries})

    def publish_signal(self, rid: str | None, signal: Signal) -> None:
        channel = self._nodes if rid is None else self._rooms + rid
        owed = [signal.rid] if isinstance(signal, Came) else []
        self._send([(channel, Envelope(self.node, signal=signal))], owed)

    def _send(self, messages: Sequence[tuple[str, Envelope]], rids: Iterable[str] = ()) -> None:
        """Publish; if that fails, it is made up for in the rooms `rids`. All of one turn of the reactor goes together:
        whoever logs in asks about each of their rooms."""
        args = [part for channel, envelope in messages for part in (channel, _encode(envelope))]
        size = sum(map(len, args))
        if self._unsent + size > UNSENT:
            self._owe(rids)
            return
        self._unsent += size
        if not self._together:
            self._reactor.callLater(0, self._flush)
        self._together += args
        self._at_stake.update(rids)

    def _flush(self) -> None:
        args, self._together = self._together, []
        rids, self._at_stake = self._at_stake, set()
        if not args:
            return

        def sent(result: Any) -> None:
            self._unsent -= sum(map(len, args))
            if isinstance(result, Failure):
                self._owe(rids)

        self._publisher.call("EVAL", PUBLISH_ALL, 0, *args).addBoth(sent).addErrback(_broken)

    def _owe(self, rids: Iterable[str] | None) -> None:
        """The others have to invalidate these rooms; None: all."""
        self._owed = None if rids is None or self._owed is None else self._owed.union(rids)
        if self._owed is not None and len(self._owed) > OWED:
            self._owed = None

    def _pay(self) -> None:
        """Tell the others which rooms to invalidate, until that has worked."""
        if self._owed == set() or not self._publisher.is_up:
            return
        owed, self._owed = self._owed, set()
        payload = _encode(Envelope(self.node, signal=Invalidate(None if owed is None else sorted(owed))))
        telling = self._publisher.call("PUBLISH", self._nodes, payload)
        telling.addCallbacks(lambda reply: None, lambda failure: self._owe(owed)).addErrback(_broken)

    # Subscribing

    def subscribe(self, rid: str) -> Deferred[None]:
        channel = self._rooms + rid
        self._subscriber.want(channel)
        if not self.is_up:
            self._late.add(channel)
            return succeed(None)
        fired: Deferred[None] = Deferred()
        before = self._waiting.get(channel)
        if before is not None:  # whoever asked first is waiting for the same
            before.addCallback(lambda _: fired.callback(None))
            return fired
        waiting = self._waiting[channel] = Deferred()
        waiting.addTimeout(SUBSCRIBING, self._reactor, onTimeoutCancel=lambda result, seconds: self._is_late(channel))
        waiting.addCallback(lambda _: fired.callback(None))
        return fired

    def unsubscribe(self, rid: str) -> None:
        channel = self._rooms + rid
        self._subscriber.forget(channel)
        self._late.discard(channel)
        if (waiting := self._waiting.pop(channel, None)) is not None:
            waiting.callback(None)

    def _is_late(self, channel: str) -> None:
        self._waiting.pop(channel, None)
        self._late.add(channel)

    def _confirmed(self, channel: str) -> None:
        if channel == self._nodes:
            self._proved = self._reactor.seconds()  # this connection has its time from now on
            self._beat()
        elif (waiting := self._waiting.pop(channel, None)) is not None:
            waiting.callback(None)
        elif channel in self._late:
            self._late.discard(channel)
            self._invalidate([channel.removeprefix(self._rooms)])

    # Hearing

    def _heard(self, channel: str, payload: bytes) -> None:
        if payload.startswith(self._own) and channel != self._nodes:
            return  # which nobody has to unpack
        try:
            envelope = _decode(payload)
        except msgspec.DecodeError:
            log.error(
                "a message on channel {channel} cannot be decoded; do all nodes run the same release?", channel=channel
            )
            self._invalidate([channel.removeprefix(self._rooms)] if channel != self._nodes else None)
            return
        node, signal = envelope.node, envelope.signal
        if isinstance(signal, Beat) and signal.leaves:
            self._gone(node)
            return
        if node not in ("", self.node):
            self._is_there(node)
        if isinstance(signal, Beat):
            self._own_beat(node, signal)
        elif node == self.node:
            return
        elif envelope.entries:
            entries = [self._keys.opened(entry) for entry in envelope.entries]
            self._arrivals.add(entries, len(payload))
        elif isinstance(signal, Invalidate):
            self._invalidate(signal.rids)
        elif signal is not None:
            self._tell(lambda listener: listener.signal_received(node, signal))

    def _invalidate(self, rids: list[str] | None) -> None:
        """Also when no room of these is listened to here: somebody may have been put into one of them."""
        here = rids and [rid for rid in rids if self._rooms + rid in self._subscriber.wanted]
        self._tell(lambda listener: listener.invalidate(here))

    def _tell(self, what: Callable[[IBusListener], None]) -> None:
        self._arrivals.flush()
        self._hand_over(what)

    def _hand_over(self, what: Callable[[IBusListener], None]) -> None:
        if self._listener is None:
            return
        try:
            what(self._listener)
        except Exception:
            log.failure("handling a message from the bus failed")

    # Beats

    def _is_there(self, node: str) -> None:
        """Whatever comes from a node shows that it is alive: it may die before its first beat is heard here."""
        is_new = node not in self._others
        self._others[node] = self._reactor.seconds()
        if is_new:
            self._tell(lambda listener: listener.node_up(node))

    def _own_beat(self, node: str, beat: Beat) -> None:
        if node == self.node:
            self._proved = self._reactor.seconds()
            self.lags.observe(self._proved - beat.at)
            if not self.is_up:
                self.is_up = True
                log.info("the bus is up")
                self._invalidate(None)

    def _beat(self) -> None:
        now = self._reactor.seconds()
        if now - self._proved > SILENCE:
            self._proved = now  # the next connection has its time, too
            self._down()
            self._subscriber.drop()
        if silent := [node for node, heard in self._others.items() if now - heard > SILENCE]:
            for node in silent:
                self._gone(node)
            self._invalidate(None)  # it may have stored what it did not live to tell
        if self._publisher.is_up:  # whose bus was down is met anew: who came and went meanwhile was not told
            beats = [Beat(at=now)] if self.is_up else [Beat(leaves=True), Beat(at=now)]
            self._send([(self._nodes, Envelope(self.node, signal=beat)) for beat in beats])
        self._pay()

    def _gone(self, node: str) -> None:
        if self._others.pop(node, None) is not None:
            self._tell(lambda listener: listener.node_down(node))

    def _down(self) -> None:
        if self.is_up:
            self.is_up = False
            log.warn("the bus is down: messages from other nodes arrive late until it is back")
            for node in list(self._others):
                self._gone(node)
        waiting, self._waiting = self._waiting, {}
        self._late.clear()  # all rooms are invalidated when it is back
        for fired in waiting.values():
            fired.callback(None)


async def users(reactor: Any, server: RedisServer) -> int:
    """How many nodes listen on the bus. May raise MercuryError."""
    link = RedisLink(reactor, server)
    try:
        await link.open()
        _, listening = await link.call("PUBSUB", "NUMSUB", _nodes_channel(server))
    finally:
        await link.close()
    return int(listening)


def _nodes_channel(server: RedisServer) -> str:
    """Where every node listens."""
    return server.channel("nodes")


def _parts(entries: list[Entry]) -> list[list[Entry]]:
    """Runs of entries that fit into one message; an entry too large for it is a run of its own."""
    parts: list[list[Entry]] = []
    size = PAYLOAD
    for entry in entries:
        more = len(entry.text) * 4 + sum(map(len, entry.members)) * 4 + 1000
        if size + more > PAYLOAD:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += more
    return parts


def _logged(failure: Failure) -> None:
    """The first attempt to connect failed, which the RedisLink has logged; it goes on trying."""
    failure.trap(MercuryError)


def _broken(failure: Failure) -> None:
    log.failure("an internal error in the bus", failure)
