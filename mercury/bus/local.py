"""The bus of a node that is alone: it publishes to nobody and receives nothing."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mercury.domain.counters import SECONDS, Histogram
from mercury.domain.model import Entry
from mercury.domain.signals import Signal
from mercury.interfaces import IBus, IBusListener


@implementer(IBus)
class LocalBus:
    """Always up; does nothing."""

    node = "here"
    is_up = True
    lags = Histogram(SECONDS)  # stays empty

    def open(self, listener: IBusListener) -> Deferred[None]:
        return succeed(None)

    def close(self) -> Deferred[None]:
        return succeed(None)

    def publish(self, entries: Sequence[Entry]) -> None:
        pass

    def publish_signal(self, rid: str | None, signal: Signal) -> None:
        pass

    def subscribe(self, rid: str) -> Deferred[None]:
        return succeed(None)

    def unsubscribe(self, rid: str) -> None:
        pass
