"""A decorator for the calls of the memory store: they are answered at once, and only while the store is open."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from mercury.errors import MercuryError


class Openable(Protocol):
    is_open: bool


S = TypeVar("S", bound=Openable)
P = ParamSpec("P")
T = TypeVar("T")


def when_open(work: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Deferred[T]]:
    """The call as the interface declares it: it answers with a Deferred, and fails with unavailable while the store is
    closed."""

    @wraps(work)
    def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if not store.is_open:
            return fail(MercuryError("unavailable", "the store is closed", retry_after=1.0))
        try:
            return succeed(work(store, *args, **kwargs))
        except MercuryError:
            return fail()

    return call
