"""The outbox: what is to be written to many connections, so that each gets one write a batch.

While it is held, frames gather at their sessions; release() writes them, joined. Outside of a hold they are written at
once. A connection that has been written to is handed to the barrier (barrier.py), which gets delivery proved.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

from mercury.core.live import Listener
from mercury.serving import serving


class Outbox:
    """Gathers frames for sessions. Holds nest."""

    log = Logger()

    def __init__(self) -> None:
        self._holds = 0
        self._dirty: list[Listener] = []

    def hold(self) -> None:
        """Gather until the matching release()."""
        self._holds += 1

    def release(self) -> None:
        """Write what was gathered, when this was the last hold."""
        self._holds -= 1
        if not self._holds:
            self._flush()

    def put(self, sessions: Iterable[Listener], data: bytes) -> None:
        """Give the same bytes to all these sessions."""
        dirty = self._dirty
        for session in sessions:
            out = session.out
            if not out:
                dirty.append(session)
            out.append(data)
        if not self._holds:
            self._flush()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            out = session.out
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            try:
                session.write(data)
            except Exception:  # one connection that fails must not starve the rest
                serving(session.served, self.log.failure, "writing to {peer} failed", peer=session.connection.peer)
                session.connection.abort()
