"""Why a store does not answer, in the same words for every engine."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from mercury.errors import MercuryError

RETRY_AFTER: Final = 1.0  # seconds after which clients may try again
MAX_WAITING: Final = 10_000  # calls: about what 2,000 clients cause when all of them reconnect at once


def unavailable(reason: str) -> MercuryError:
    """The error of a call that failed because of the engine, or of the way to it."""
    return MercuryError("unavailable", reason, RETRY_AFTER)


def overloaded(waiting: int) -> MercuryError:
    """The error of a call that is not begun, because so many wait already."""
    return MercuryError("unavailable", f"{waiting} calls already wait for the store", RETRY_AFTER, limit="store-calls")


def internal() -> MercuryError:
    """The error of a call that failed because of a fault in Mercury."""
    return MercuryError("internal", "an internal error in the store; the log has the details")


def not_open() -> Deferred[Any]:
    """The answer to every call before open()."""
    return fail(unavailable("the store is not open"))
