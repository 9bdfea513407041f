"""Whom Mercury serves at this moment: a session or a request. The log writes it on each line (mercury/node/logs.py).

It is set where something of theirs comes in, and goes along through every `await`: a coroutine keeps the context in
which it was begun (PEP 567). What a timer or another one's event calls is served for nobody, unless it says for whom.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, Literal, ParamSpec, TypeVar

from twisted.internet.defer import Deferred

P = ParamSpec("P")
T = TypeVar("T")

LogContext = tuple[Literal["session", "request"], int | str]

#: What it is, and its id; None while nobody in particular is served.
LOG_CONTEXT: Final[ContextVar[LogContext | None]] = ContextVar("served", default=None)


def in_context(log_context: LogContext | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work` for somebody."""
    token = LOG_CONTEXT.set(log_context)
    try:
        return work(*args, **kwargs)
    finally:
        LOG_CONTEXT.reset(token)


def start_in_context(log_context: LogContext | None, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Deferred.fromCoroutine for somebody. Its callbacks, unlike the coroutine, are called for whoever comes along."""
    return in_context(log_context, Deferred.fromCoroutine, work)
