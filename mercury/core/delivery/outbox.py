"""The outbox: gathers what is to be written, so that each connection gets one write a batch.

While it is corked, frames gather at their sessions; uncork() joins and writes them. While it is not, they are written
at once. What a whole room hears goes in one broadcast straight to the sockets of those sessions that hear nothing else
in the batch: for 1,000 members that halves the work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from twisted.logger import Logger

from mercury.core.delivery.listeners import Sink
from mercury.domain.log_context import in_context

MANY: Final = 16  # sessions from which on a broadcaster is faster than a loop

_log = Logger()


class Broadcaster(Protocol):
    """Sends the same bytes straight to the sockets of many sessions."""

    def send(self, sessions: Sequence[Sink], data: bytes) -> Iterable[tuple[Sink, int]]:
        """Each session is in `sessions` once. Yields those whose socket did not take all of the bytes, and how many it
        took; the rest is for Sink.write(), at once and before anything else."""


class SendLoop:
    """A Broadcaster that calls send() for one socket after the other."""

    def send(self, sessions: Sequence[Sink], data: bytes) -> Iterable[tuple[Sink, int]]:
        """Nothing else that is done for a message is done for each of its receivers, so this loop has little in it."""
        size = len(data)
        for session in sessions:
            direct = session.connection.direct
            if direct is None:
                yield session, 0
                continue
            try:
                sent = direct.send(data)
            except OSError:
                sent = 0
            if sent != size:
                yield session, sent


class Outbox:
    """Gathers frames for sessions. Corks nest. `broadcaster`: for MANY sessions or more; fewer are sent to one by one.
    `delivered_bytes`: how many bytes went straight to sockets, ever."""

    def __init__(self, broadcaster: Broadcaster | None = None) -> None:
        self.delivered_bytes = 0
        self._send_loop = SendLoop()
        self._broadcaster = broadcaster or self._send_loop
        self._corks = 0
        self._dirty: list[Sink] = []
        self._broadcasts: list[tuple[Sequence[Sink], bytes]] = []

    def cork(self) -> None:
        """Gather until the matching uncork()."""
        self._corks += 1

    def uncork(self) -> None:
        """Write what was gathered, when this was the last cork."""
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

    def put(self, sessions: Iterable[Sink], data: bytes) -> None:
        """Write the same bytes to each of these sessions."""
        if self._broadcasts:  # these come first
            broadcasts, self._broadcasts = self._broadcasts, []
            for receivers, earlier in broadcasts:
                self._gather(receivers, earlier)
        self._gather(sessions, data)
        if not self._corks:
            self._flush()

    def broadcast(self, sessions: Collection[Sink], data: bytes) -> None:
        """put() for a room: it goes to all sessions in one go where that is possible."""
        self._broadcasts.append((tuple(sessions), data))
        if not self._corks:
            self._flush()

    def _gather(self, sessions: Iterable[Sink], data: bytes) -> None:
        for session in sessions:
            if not session.out:
                self._dirty.append(session)
            session.out.append(data)

    def _flush(self) -> None:
        broadcasts, self._broadcasts = self._broadcasts, []
        ready = [(self._ready(sessions, data, len(broadcasts) == 1), data) for sessions, data in broadcasts]
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            out = session.out
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._write(session, data)
        for receivers, data in ready:
            self._send(receivers, data)

    def _ready(self, sessions: Sequence[Sink], data: bytes, alone: bool) -> list[Sink]:
        """Those that hear nothing else; for the others the bytes are gathered. `alone`: no other room hears anything
        in this batch."""
        ready = [session for session in sessions if not session.out and (alone or len(session.rooms) == 1)]
        if len(ready) < len(sessions):  # something comes before it, or may come with it
            apart = set(ready)
            self._gather([session for session in sessions if session not in apart], data)
        return ready

    def _send(self, sessions: Sequence[Sink], data: bytes) -> None:
        self.delivered_bytes += len(data) * len(sessions)
        broadcaster = self._broadcaster if len(sessions) >= MANY else self._send_loop
        for session, sent in broadcaster.send(sessions, data):
            self.delivered_bytes -= len(data) - sent
            self._write(session, data[sent:])

    def _write(self, session: Sink, data: bytes) -> None:
        """One connection that fails must not keep the others from hearing."""
        try:
            session.write(data)
        except Exception:
            in_context(session.log_context, _log.failure, "writing to {peer} failed", peer=session.connection.peer)
            session.connection.abort()
