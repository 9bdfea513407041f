"""The bus on Redis pub/sub: a channel for each room, and one for all nodes.

A subscriber's connection can look healthy and receive nothing. So each node publishes a beat every two seconds on the
channel of all nodes. If it does not receive its own beat, its bus is down, and it connects again. That channel is
subscribed to last, so the first beat that comes back also proves that all rooms are subscribed. The beats of other
nodes show that they are alive.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
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

_log = Logger()

BEAT_INTERVAL: Final = 2.0  # seconds between beats
SILENCE_TIMEOUT: Final = 5.0  # seconds without our own beat until the bus is down, or without a node's until it is lost
SUBSCRIBE_TIMEOUT: Final = 2.0  # seconds that subscribe() waits for a confirmation
MAX_PAYLOAD: Final = 256 * 1024  # bytes in one message, about
MAX_UNSENT: Final = 16 << 20  # bytes that may wait for Redis; what is more is not published
MAX_UNPUBLISHED: Final = 1000  # rooms remembered by name in which something was not published

#: ARGV: channels and what is published on them, in turn. One command for a batch over many rooms.
PUBLISH_ALL: Final = "for at = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[at], ARGV[at + 1]) end"


class Invalidate(Struct, tag="invalidate"):
    """Some entries of these rooms were not published; None: of any rooms."""

    rids: list[str] | None


class Beat(Struct, tag="beat"):
    """The node is alive, or `leaving`. `at`: when it was sent, in seconds by the node's own clock."""

    leaving: bool = False
    at: float = 0.0


class Envelope(Struct, array_like=True):
    """One message: entries of one room, or a signal. Nodes publish them, and so does the script that stores entries
    for a node (lua/append.lua)."""

    node: str
    entries: list[Entry] = []
    signal: Signal | Invalidate | Beat | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


def room_channels(server: RedisServer) -> str:
    """The prefix of all rooms' channels. A RedisStore that is given it publishes there by itself."""
    return server.channel("room:")


@implementer(IBus)
class RedisBus:
    """IBus on Redis, with one connection that publishes and one that receives.

    `store_publishes`: the store's script publishes the entries that it stores, so publish() does nothing.
    `node`: the node's name, the same as the store's; drawn at random if it is not given.
    `keys`: what texts are sealed with, the same as the store's.
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
        self._publisher = RedisLink(reactor, server)
        self._subscriber = Subscriber(reactor, server, self._nodes, self)
        self._subscribing: dict[str, Deferred[None]] = {}  # channel -> subscribe() in progress
        self._late_channels: set[str] = set()  # channels whose subscribe() fired before their confirmation
        self._last_own_beat = 0.0  # when a beat of our own came back
        self._arrivals = Arrivals(reactor)
        name = msgspec.msgpack.encode(self.node)
        self._own_prefixes = (b"\x92" + name, b"\x93" + name)  # of messages by our script, and by the node itself
        self._last_heard: dict[str, float] = {}  # node -> when something of it came
        self._unsent_bytes = 0
        self._outgoing: list[str | bytes] = []  # channels and what to publish there, at the end of this turn
        self._outgoing_rooms: set[str] = set()  # that have to be invalidated if that fails
        self._unpublished: set[str] | None = set()  # rooms that the others have to invalidate; None: all
        self._beat_loop = LoopingCall(self._check_and_beat)
        self._beat_loop.clock = reactor

    def open(self, listener: IBusListener) -> Deferred[None]:
        self._arrivals.open(listener)
        self._last_own_beat = self._reactor.seconds()
        connections = [self._publisher.open(), self._subscriber.open()]
        tried = gatherResults([opening.addErrback(_ignore_logged) for opening in connections])
        self._beat_loop.start(BEAT_INTERVAL, now=False).addErrback(_log_fault)
        return tried.addCallback(lambda _: None)

    def close(self) -> Deferred[None]:
        if self._beat_loop.running:
            self._beat_loop.stop()
        if self._publisher.is_up:  # else close() would wait for a connection
            self._send([(self._nodes, Envelope(self.node, signal=Beat(leaving=True)))])
        self._flush()
        self._arrivals.close()
        self.is_up = False
        self.connection_lost()
        return gatherResults([self._subscriber.close(), self._publisher.close()]).addCallback(lambda _: None)

    # Publishing

    def publish(self, entries: Sequence[Entry]) -> None:
        if self._store_publishes:
            return
        by_room = attrgetter("rid")
        messages = [
            (self._rooms + rid, Envelope(self.node, part))
            for rid, of_room in groupby(sorted(entries, key=by_room), key=by_room)  # keeps the order of each room
            for part in _split([self._keys.closed(entry) for entry in of_room])
        ]
        self._send(messages, {entry.rid for entry in entries})

    def publish_signal(self, rid: str | None, signal: Signal) -> None:
        channel = self._nodes if rid is None else self._rooms + rid
        rids = [signal.rid] if isinstance(signal, Came) else []
        self._send([(channel, Envelope(self.node, signal=signal))], rids)

    def _send(self, messages: Sequence[tuple[str, Envelope]], rids: Iterable[str] = ()) -> None:
        """Publish at the end of this turn of the reactor, all together: a login asks about each room of the member.
        If it fails, the rooms `rids` will be invalidated at the other nodes."""
        args = [part for channel, envelope in messages for part in (channel, _encode(envelope))]
        size = sum(map(len, args))
        if self._unsent_bytes + size > MAX_UNSENT:
            self._remember_unpublished(rids)
            return
        self._unsent_bytes += size
        if not self._outgoing:
            self._reactor.callLater(0, self._flush)
        self._outgoing += args
        self._outgoing_rooms.update(rids)

    def _flush(self) -> None:
        args, self._outgoing = self._outgoing, []
        rids, self._outgoing_rooms = self._outgoing_rooms, set()
        if not args:
            return

        def sent(result: Any) -> None:
            self._unsent_bytes -= sum(map(len, args))
            if isinstance(result, Failure):
                self._remember_unpublished(rids)

        self._publisher.call("EVAL", PUBLISH_ALL, 0, *args).addBoth(sent).addErrback(_log_fault)

    def _remember_unpublished(self, rids: Iterable[str] | None) -> None:
        """Remember that something was not published in these rooms; None: in any."""
        self._unpublished = None if rids is None or self._unpublished is None else self._unpublished.union(rids)
        if self._unpublished is not None and len(self._unpublished) > MAX_UNPUBLISHED:
            self._unpublished = None

    def _publish_unpublished(self) -> None:
        """Have the others invalidate the rooms where something was not published. Called again until that works."""
        if self._unpublished == set() or not self._publisher.is_up:
            return
        rids, self._unpublished = self._unpublished, set()
        payload = _encode(Envelope(self.node, signal=Invalidate(None if rids is None else sorted(rids))))

        def failed(failure: Failure) -> None:
            self._remember_unpublished(rids)

        self._publisher.call("PUBLISH", self._nodes, payload).addErrback(failed).addErrback(_log_fault)

    # Subscribing

    def subscribe(self, rid: str) -> Deferred[None]:
        channel = self._rooms + rid
        self._subscriber.subscribe(channel)
        if not self.is_up:
            self._late_channels.add(channel)
            return succeed(None)
        fired: Deferred[None] = Deferred()
        before = self._subscribing.get(channel)
        if before is not None:  # somebody waits for the same already
            before.addCallback(lambda _: fired.callback(None))
            return fired
        waiting = self._subscribing[channel] = Deferred()
        waiting.addTimeout(SUBSCRIBE_TIMEOUT, self._reactor, lambda *_: self._subscribe_timed_out(channel))
        waiting.addCallback(lambda _: fired.callback(None))
        return fired

    def unsubscribe(self, rid: str) -> None:
        channel = self._rooms + rid
        self._subscriber.unsubscribe(channel)
        self._late_channels.discard(channel)
        if (waiting := self._subscribing.pop(channel, None)) is not None:
            waiting.callback(None)

    def _subscribe_timed_out(self, channel: str) -> None:
        self._subscribing.pop(channel, None)
        self._late_channels.add(channel)

    # What the subscriber calls

    def subscribed(self, channel: str) -> None:
        if channel == self._nodes:
            self._last_own_beat = self._reactor.seconds()  # a new connection: SILENCE_TIMEOUT counts from now on
            self._check_and_beat()
        elif (waiting := self._subscribing.pop(channel, None)) is not None:
            waiting.callback(None)
        elif channel in self._late_channels:
            self._late_channels.discard(channel)
            self._invalidate([channel.removeprefix(self._rooms)])

    def message_received(self, channel: str, payload: bytes) -> None:
        if payload.startswith(self._own_prefixes) and channel != self._nodes:
            return  # not worth decoding
        try:
            envelope = _decode(payload)
        except msgspec.DecodeError:
            _log.error(
                "a message on channel {channel} cannot be decoded; do all nodes run the same release?", channel=channel
            )
            self._invalidate([channel.removeprefix(self._rooms)] if channel != self._nodes else None)
            return
        node, signal = envelope.node, envelope.signal
        if isinstance(signal, Beat) and signal.leaving:
            self._node_lost(node)
            return
        if node not in ("", self.node):
            self._heard_from(node)
        if isinstance(signal, Beat):
            self._beat_received(node, signal)
        elif node == self.node:
            return
        elif envelope.entries:
            entries = [self._keys.opened(entry) for entry in envelope.entries]
            self._arrivals.entries_received(entries, len(payload))
        elif isinstance(signal, Invalidate):
            self._invalidate(signal.rids)
        elif signal is not None:
            self._arrivals.signal_received(node, signal)

    def connection_lost(self) -> None:
        """Also called when our own beat did not come back, and by close()."""
        if self.is_up:
            self.is_up = False
            _log.warn("the bus is down: messages from other nodes arrive late until it is back")
            for node in list(self._last_heard):
                self._node_lost(node)
        waiting, self._subscribing = self._subscribing, {}
        self._late_channels.clear()  # all rooms are invalidated when the bus is back
        for subscribing in waiting.values():
            subscribing.callback(None)

    def _invalidate(self, rids: list[str] | None) -> None:
        """Even if none of these rooms is subscribed to here: a member connected here may have been put into one."""
        here = rids and [rid for rid in rids if self._rooms + rid in self._subscriber.wanted]
        self._arrivals.invalidate(here)

    # Beats and nodes

    def _heard_from(self, node: str) -> None:
        """Any message of a node shows that it is alive: it may die before its first beat gets here."""
        is_new = node not in self._last_heard
        self._last_heard[node] = self._reactor.seconds()
        if is_new:
            self._arrivals.node_up(node)

    def _beat_received(self, node: str, beat: Beat) -> None:
        if node == self.node:
            self._last_own_beat = self._reactor.seconds()
            self.lags.observe(self._last_own_beat - beat.at)
            if not self.is_up:
                self.is_up = True
                _log.info("the bus is up")
                self._invalidate(None)

    def _check_and_beat(self) -> None:
        now = self._reactor.seconds()
        if now - self._last_own_beat > SILENCE_TIMEOUT:
            self._last_own_beat = now  # the next connection has SILENCE_TIMEOUT, too
            self.connection_lost()
            self._subscriber.reconnect()
        if silent := [node for node, heard in self._last_heard.items() if now - heard > SILENCE_TIMEOUT]:
            for node in silent:
                self._node_lost(node)
            self._invalidate(None)  # it may have stored something and died before it was published
        if (
            self._publisher.is_up
        ):  # while our bus is down, the others drop us and meet us again: we missed their signals
            beats = [Beat(at=now)] if self.is_up else [Beat(leaving=True), Beat(at=now)]
            self._send([(self._nodes, Envelope(self.node, signal=beat)) for beat in beats])
        self._publish_unpublished()

    def _node_lost(self, node: str) -> None:
        if self._last_heard.pop(node, None) is not None:
            self._arrivals.node_down(node)


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


def _split(entries: list[Entry]) -> list[list[Entry]]:
    """Cut entries into parts that fit into one message; an entry that is larger is a part of its own."""
    parts: list[list[Entry]] = []
    size = MAX_PAYLOAD
    for entry in entries:
        more = len(entry.text) * 4 + sum(map(len, entry.members)) * 4 + 1000
        if size + more > MAX_PAYLOAD:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += more
    return parts


def _ignore_logged(failure: Failure) -> None:
    """The first attempt to connect failed, which the RedisLink has logged; it goes on trying."""
    failure.trap(MercuryError)


def _log_fault(failure: Failure) -> None:
    _log.failure("an internal error in the bus", failure)
