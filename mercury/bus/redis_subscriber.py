"""The connection on which a node receives what is published: which channels it has subscribed to, and what comes.

txredisapi's own SubscriberFactory forgets the password and the database, and its protocol takes the confirmation of a
subscription for the reply to some command. Here the connection is a RedisLink, which logs in each time, and
confirmations are counted by channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from mercury.stores.redis.link import LinkProtocol, RedisLink, RedisServer

MAX_CHANNELS: Final = 1000  # in one SUBSCRIBE


class SubscriberListener(Protocol):
    """Who is told what happens on the connection. No method may raise."""

    def message_received(self, channel: str, payload: bytes) -> None:
        """Something was published on a channel."""

    def subscribed(self, channel: str) -> None:
        """All that is published on the channel from now on is received, until the connection is lost."""

    def connection_lost(self) -> None:
        """Nothing is received until channels are subscribed() again."""


class SubscriberProtocol(LinkProtocol):
    """Hands on messages and confirmations; all other replies, as those to a login, go txredisapi's way."""

    def __init__(self, subscriber: Subscriber, listener: SubscriberListener) -> None:
        super().__init__()
        self._subscriber = subscriber
        self._listener = listener

    def replyReceived(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) and len(reply) == 3 else None
        if kind == b"message":
            self._listener.message_received(reply[1].decode(), reply[2])
        elif kind == b"subscribe":
            self._subscriber.confirmed(reply[1].decode())
        elif kind != b"unsubscribe":
            super().replyReceived(reply)

    def send(self, *command: str) -> None:
        """Send a command that is answered by a confirmation for each channel."""
        self.transport.write(self._build_command(*command))


class Subscriber:
    """Keeps subscribed to the channels in `wanted`, on every connection. `last` is subscribed to after all of them, so
    that its confirmation, or a message on it, shows that all others are confirmed."""

    def __init__(self, reactor: Any, server: RedisServer, last: str, listener: SubscriberListener) -> None:
        self.wanted: set[str] = set()
        self._reactor = reactor
        self._last = last
        self._listener = listener
        self._protocol: SubscriberProtocol | None = None
        self._requested: set[str] = set()  # channels that this connection has subscribed to
        self._unconfirmed: Counter[str] = Counter()
        self._changed: dict[str, None] = {}  # channels that were wanted or given up in this turn
        self._link = RedisLink(reactor, server, self._on_connect, self._on_disconnect, self._make_protocol)

    def open(self) -> Deferred[None]:
        """Connect, and again whenever the connection is lost. Fails if the first attempt does; others follow."""
        return self._link.open()

    def close(self) -> Deferred[None]:
        """Receive nothing more."""
        return self._link.close()

    def reconnect(self) -> None:
        """Give up this connection, which brings nothing although it seems to work, and make another one."""
        self._link.reconnect()

    def subscribe(self, channel: str) -> None:
        """Want a channel; subscribed(channel) follows, now or after a reconnect."""
        self.wanted.add(channel)
        self._change(channel)

    def unsubscribe(self, channel: str) -> None:
        """Give up a channel."""
        self.wanted.discard(channel)
        self._change(channel)

    def confirmed(self, channel: str) -> None:
        """Redis has confirmed a subscription."""
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] <= 0:
            del self._unconfirmed[channel]
            if channel in self.wanted or channel == self._last:
                self._listener.subscribed(channel)

    def _change(self, channel: str) -> None:
        if not self._changed:
            self._reactor.callLater(0, self._request_changes)
        self._changed[channel] = None

    def _request_changes(self) -> None:
        """Send the changes of one turn of the reactor together."""
        changed, self._changed = self._changed, {}
        if self._protocol is None:
            return
        wanted = [channel for channel in changed if channel in self.wanted]
        for channel in wanted:
            if channel in self._requested and not self._unconfirmed[channel]:
                self._listener.subscribed(channel)  # given up and wanted again within the turn: it was never left
        self._send_subscribe(channel for channel in wanted if channel not in self._requested)
        gone = [channel for channel in changed if channel not in self.wanted and channel in self._requested]
        self._requested.difference_update(gone)
        self._send("UNSUBSCRIBE", gone)

    def _send_subscribe(self, channels: Iterable[str]) -> None:
        requested = list(channels)
        self._requested.update(requested)
        self._unconfirmed.update(requested)
        self._send("SUBSCRIBE", requested)

    def _send(self, command: str, channels: list[str]) -> None:
        for start in range(0, len(channels), MAX_CHANNELS):
            if self._protocol is not None:
                self._protocol.send(command, *channels[start : start + MAX_CHANNELS])

    # What the link calls

    def _make_protocol(self) -> SubscriberProtocol:
        return SubscriberProtocol(self, self._listener)

    async def _on_connect(self, protocol: SubscriberProtocol) -> None:
        self._protocol = protocol
        self._requested.clear()
        self._unconfirmed.clear()
        self._send_subscribe(self.wanted)
        self._send_subscribe([self._last])

    def _on_disconnect(self) -> None:
        self._protocol = None
        self._listener.connection_lost()
