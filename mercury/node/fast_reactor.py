"""A shorter way from epoll to a connection that has something to read.

Twisted's epoll reactor hands each event on through a logging context, whose `system` Mercury's log does not have, and
through checks for everything that can have happened to a descriptor: 3 of the 5 us that a small read takes around the
system call itself. Here the one event that there is much of, "there is something to read", goes straight to doRead();
all others go Twisted's way.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

_log = Logger()


def quicken(reactor: Any) -> None:
    """Take the shorter way in this reactor from its next turn on, if it is Twisted's epoll reactor."""
    if type(reactor) is EPollReactor:
        reactor.doIteration = _turn_of(reactor)  # type: ignore[method-assign]


def _turn_of(reactor: Any) -> Callable[[float | None], None]:
    """What waits for events for at most so many seconds (None: for ever) and hands them on, once."""
    poll = reactor._poller.poll
    selectables: dict[int, Any] = reactor._selectables

    def turn(timeout: float | None) -> None:
        try:
            events = poll(-1 if timeout is None else timeout, len(selectables))
        except InterruptedError:
            return
        for fd, event in events:
            selectable = selectables.get(fd)  # what was dealt with before may have closed it
            if selectable is None:
                continue
            if event != select.EPOLLIN:
                reactor._doReadOrWrite(selectable, fd, event)
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:  # as Twisted does: who fails loses its connection
                _log.failure("reading failed")
                why = error
            if why:
                reactor._disconnectSelectable(selectable, why, True)

    return turn
