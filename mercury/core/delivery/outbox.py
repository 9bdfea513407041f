"""The outbox: what is to be written to many connections, so that each gets one write a batch.

While it is held, frames gather at their sessions; release() writes them, joined. Outside of a hold they are written at
once. What a whole room is told goes from one loop straight to the sockets of those sessions that are told nothing else:
for 1,000 members that halves what there is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from twisted.logger import Logger

from mercury.core.delivery.listeners import Listener
from mercury.domain.log_context import in_context

MANY = 16  # sessions, from which on `many` is the shorter way

#: Sends the same bytes to sessions, each once among them: who did not take all of them, and how many they took.
Many = Callable[[Sequence[Listener], bytes], Iterable[tuple[Listener, int]]]


class Outbox:
    """Gathers frames for sessions. Holds nest. `delivered_bytes`: how many went straight to sockets, ever. `many`: what
    sends to many sessions at once, where something can."""

    log = Logger()

    def __init__(self, many: Many | None = None) -> None:
        self.delivered_bytes = 0
        self._many = many
        self._corks = 0
        self._dirty: list[Listener] = []
        self._broadcasts: list[tuple[Sequence[Listener], bytes]] = []

    def cork(self) -> None:
        """Gather until the matching uncork()."""
        self._corks += 1

    def uncork(self) -> None:
        """Write what was gathered, when this was the last hold."""
        self._corks -= 1
        if not self._corks:
            self._flush()

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Gather within a `with` block, and write at its end."""
        self.cork()
        try:
            yield
        finally:
            self.uncork()

    def put(self, sessions: Iterable[Listener], data: bytes) -> None:
        """Give the same bytes to all these sessions."""
        if self._broadcasts:  # that comes before
            broadcasts, self._broadcasts = self._broadcasts, []
            for told, before in broadcasts:
                self._gather(told, before)
        self._gather(sessions, data)
        if not self._corks:
            self._flush()

    def broadcast(self, sessions: Collection[Listener], data: bytes) -> None:
        """put() for a room: in one go where that is possible, and the sessions are not asked to prove anything."""
        self._broadcasts.append((tuple(sessions), data))
        if not self._corks:
            self._flush()

    def _gather(self, sessions: Iterable[Listener], data: bytes) -> None:
        for session in sessions:
            if not session.out:
                self._dirty.append(session)
            session.out.append(data)

    def _flush(self) -> None:
        broadcasts, self._broadcasts = self._broadcasts, []
        parcels = [(self._ready(sessions, data, len(broadcasts) == 1), data) for sessions, data in broadcasts]
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            out = session.out
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._write(session, data)
        for ready, data in parcels:
            self._deliver(ready, data)

    def _ready(self, sessions: Sequence[Listener], data: bytes, alone: bool) -> list[Listener]:
        """Those who are told nothing else; for the others the data are gathered. `alone`: no other room is told now."""
        ready = [session for session in sessions if not session.out and (alone or len(session.rooms) == 1)]
        if len(ready) < len(sessions):  # they were told something before, or perhaps will be
            straight = set(ready)
            self._gather([session for session in sessions if session not in straight], data)
        return ready

    def _deliver(self, ready: Sequence[Listener], data: bytes) -> None:
        self.delivered_bytes += len(data) * len(ready)
        send = self._many if self._many is not None and len(ready) >= MANY else self._one_by_one
        for session, sent in send(ready, data):
            self.delivered_bytes -= len(data) - sent
            self._write(session, data[sent:])

    def _one_by_one(self, sessions: Sequence[Listener], data: bytes) -> Iterator[tuple[Listener, int]]:
        """Nothing else that is done for a message is done for each of its receivers, so this loop has little in it."""
        size = len(data)
        for session in sessions:
            try:
                sent = session.connection.deliver(data)
            except OSError:
                sent = 0
            except Exception:
                self._failed(session)
                continue
            if sent != size:
                yield session, sent

    def _write(self, session: Listener, data: bytes) -> None:
        try:
            session.write(data)
        except Exception:
            self._failed(session)

    def _failed(self, session: Listener) -> None:
        """One connection that fails must not starve the rest."""
        in_context(session.log_context, self.log.failure, "writing to {peer} failed", peer=session.connection.peer)
        session.connection.abort()
