"""The connection on which a node hears the bus: which channels it asked for, and what comes on them.

txredisapi's own SubscriberFactory forgets password and database, and its protocol takes a confirmation for the answer
to whatever waits. Here the connection is a RedisLink, which logs in each time, and confirmations are counted by
channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred

from mercury.stores.redis.link import LinkProtocol, RedisLink, RedisServer

AT_ONCE: Final = 1000  # channels in one SUBSCRIBE


class SubscriberProtocol(LinkProtocol):
    """Hands messages and confirmations on; the replies to a login go their usual way."""

    def __init__(self, heard: Callable[[bytes, bytes], None], confirmed: Callable[[bytes], None]) -> None:
        super().__init__()
        self._heard = heard
        self._confirmed = confirmed

    def replyReceived(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) and len(reply) == 3 else None
        if kind == b"message":
            self._heard(reply[1], reply[2])
        elif kind == b"subscribe":
            self._confirmed(reply[1])
        elif kind != b"unsubscribe":
            super().replyReceived(reply)

    def send(self, *command: str) -> None:
        """Send a command whose answer is a confirmation for each channel."""
        self.transport.write(self._build_command(*command))


class Subscriber:
    """Keeps subscribed to the channels in `wanted`, and last, when all of them are, to `last`, over all reconnects.

    None of these may raise: `heard(channel, payload)` for each message; `confirmed(channel)` when all that comes on a
    channel is heard from now on; `lost()` when the connection is gone.
    """

    def __init__(
        self,
        reactor: Any,
        server: RedisServer,
        last: str,
        *,
        heard: Callable[[str, bytes], None],
        confirmed: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        self.wanted: set[str] = set()
        self._reactor = reactor
        self._last = last
        self._heard = heard
        self._confirmed = confirmed
        self._lost_it = lost
        self._protocol: SubscriberProtocol | None = None
        self._asked: set[str] = set()  # on this connection
        self._unconfirmed: Counter[str] = Counter()
        self._changed: dict[str, None] = {}
        self._link = RedisLink(reactor, server, self._on_connect, self._lost, self._new_protocol)

    def open(self) -> Deferred[None]:
        """Connect, and do so again whenever the connection is lost. Fails with the first attempt, and goes on."""
        return self._link.open()

    def close(self) -> Deferred[None]:
        """Hear nothing more."""
        return self._link.close()

    def drop(self) -> None:
        """The connection is not what it seems to be."""
        self._link.reconnect()

    def want(self, channel: str) -> None:
        """Subscribe to a channel; confirmed() follows, now or after a reconnect."""
        self.wanted.add(channel)
        self._change(channel)

    def forget(self, channel: str) -> None:
        """Unsubscribe from a channel."""
        self.wanted.discard(channel)
        self._change(channel)

    def _change(self, channel: str) -> None:
        if not self._changed:
            self._reactor.callLater(0, self._ask)
        self._changed[channel] = None

    def _ask(self) -> None:
        """All that was asked for within one turn of the reactor goes out together."""
        changed, self._changed = self._changed, {}
        if self._protocol is None:
            return
        wanted = [channel for channel in changed if channel in self.wanted]
        for channel in wanted:
            if channel in self._asked and not self._unconfirmed[channel]:
                self._confirmed(channel)  # forgotten and wanted again within the turn: it was heard all the time
        self._subscribe(channel for channel in wanted if channel not in self._asked)
        gone = [channel for channel in changed if channel not in self.wanted and channel in self._asked]
        self._asked.difference_update(gone)
        self._send("UNSUBSCRIBE", gone)

    def _subscribe(self, channels: Iterable[str]) -> None:
        asked = list(channels)
        self._asked.update(asked)
        self._unconfirmed.update(asked)
        self._send("SUBSCRIBE", asked)

    def _send(self, command: str, channels: list[str]) -> None:
        for start in range(0, len(channels), AT_ONCE):
            if self._protocol is not None:
                self._protocol.send(command, *channels[start : start + AT_ONCE])

    def _new_protocol(self) -> SubscriberProtocol:
        return SubscriberProtocol(self._message, self._confirm)

    async def _on_connect(self, protocol: SubscriberProtocol) -> None:
        self._protocol = protocol
        self._asked.clear()
        self._unconfirmed.clear()
        self._subscribe(self.wanted)
        self._subscribe([self._last])

    def _lost(self) -> None:
        self._protocol = None
        self._lost_it()

    def _confirm(self, channel: bytes) -> None:
        name = channel.decode()
        self._unconfirmed[name] -= 1
        if self._unconfirmed[name] <= 0:
            del self._unconfirmed[name]
            if name in self.wanted or name == self._last:
                self._confirmed(name)

    def _message(self, channel: bytes, payload: bytes) -> None:
        self._heard(channel.decode(), payload)
