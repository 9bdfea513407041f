"""Two changes to the process that make a node faster: a shorter way out of epoll, and fewer garbage collections.

fast_poll(): Twisted's epoll reactor passes each event through a logging context, whose `system` Mercury's log does not
use, and through checks for everything that can have happened to a descriptor: 3 of the 5 us that a small read takes
around the system call itself. Here the most frequent event, "there is something to read", goes straight to doRead();
all others go Twisted's way.

tune_gc(): by default, Python looks for reference cycles whenever there are 700 more objects than before: several times
for each batch of messages, whose objects are all freed by themselves a moment later. With 2,000 clients that send at
once this took 9% of a node's time.
"""

from __future__ import annotations

import gc
import select
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

#: New objects between two collections: more than those of a batch in progress, and little memory, since a closed
#: connection leaves some hundred of them behind.
NEW_OBJECTS: Final = 50_000

_log = Logger()


def fast_poll(reactor: Any) -> None:
    """Take the shorter way in this reactor from its next turn on, if it is Twisted's epoll reactor."""
    if type(reactor) is EPollReactor:
        reactor.doIteration = _turn_of(reactor)  # type: ignore[method-assign]


def _turn_of(reactor: Any) -> Callable[[float | None], None]:
    """A replacement for doIteration: waits for events for at most so many seconds (None: for ever), and handles
    them."""
    poll = reactor._poller.poll
    selectables: dict[int, Any] = reactor._selectables

    def turn(timeout: float | None) -> None:
        try:
            events = poll(-1 if timeout is None else timeout, len(selectables))
        except InterruptedError:
            return
        for fd, event in events:
            selectable = selectables.get(fd)  # an earlier event may have closed it
            if selectable is None:
                continue
            if event != select.EPOLLIN:
                reactor._doReadOrWrite(selectable, fd, event)
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:  # as Twisted does: a connection that fails is lost
                _log.failure("reading failed")
                why = error
            if why:
                reactor._disconnectSelectable(selectable, why, True)

    return turn


def tune_gc() -> None:
    """Collect after NEW_OBJECTS from now on, and never again look through the objects that exist now: a node's
    parts."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
