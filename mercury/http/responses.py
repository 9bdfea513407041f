"""From a call's work to an HTTP response, the same way for REST and for goTalk: also when the call is forbidden, takes
too long, fails, or does not exist.

What a call writes is stored and delivered even if its client hangs up meanwhile: Klein then cancels the Deferred that
it waits for, and here that never is the work itself.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource

from mercury.core.group_commit import as_error
from mercury.errors import MercuryError
from mercury.http.server import HttpRequest

_log = Logger()


class Quoted(Resource):
    """Gives Klein the path as it was sent: unquoted, a slash in a name would be taken for one of the path."""

    def __init__(self, routes: IResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._routes = routes

    def render(self, request: HttpRequest) -> Any:
        if not request.path.isascii():
            return request.respond_error(MercuryError("bad_request", "the path is not percent-encoded UTF-8"))
        request.postpath = request.path[1:].split(b"/")
        return self._routes.render(request)


def answered(
    work: Coroutine[Deferred[Any], Any, bytes], request: HttpRequest, what: str, clock: Any, seconds: float
) -> Deferred[bytes]:
    """The response for Klein. It may be cancelled or time out, but the work goes on. `what`: the call, for the log."""
    request.call = what
    answer: Deferred[bytes] = Deferred()
    Deferred.fromCoroutine(_logged(work, what)).chainDeferred(answer)
    return answer.addTimeout(seconds, clock).addErrback(_failed, request)


def refuse_strange_pages(request: HttpRequest) -> None:
    """A browser sends what any web page tells it to, and the Origin header says which page that is."""
    origin = request.getHeader(b"origin")
    if origin is not None and _host_of(origin) != (request.getHeader(b"host") or b"").lower():
        raise MercuryError("forbidden", "web pages of another origin may not call this")


def _host_of(origin: bytes) -> bytes | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _logged(work: Coroutine[Deferred[Any], Any, bytes], what: str) -> bytes:
    """Do it, and log a fault of Mercury's, once, even if nobody waits for the answer any more."""
    try:
        return await work
    except MercuryError:
        raise
    except Exception:
        _log.failure("{what} failed", what=what)
        raise


def _failed(failure: Failure, request: HttpRequest) -> Any:
    """The one place where errors become responses."""
    if failure.check(CancelledError):
        return failure  # the client is gone; Klein knows
    if failure.check(TookTooLong):
        return request.respond_error(MercuryError("unavailable", "this takes too long; it may still be done", 1.0))
    return request.respond_error(as_error(failure))


def no_route(request: HttpRequest, refusal: Any, hint: str) -> bytes:
    """The response where there is no call; OPTIONS gets the methods of a path (RFC 9110, 9.3.7)."""
    methods = getattr(refusal, "valid_methods", None)
    if methods is None:
        return request.respond_error(MercuryError("not_found", f"there is nothing here; {hint}"))
    allowed = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
    if request.method == b"OPTIONS":
        return request.respond(200, b'{"status":"ok"}', allowed)
    words = f"{request.method.decode('ascii', 'replace')} is not allowed here; allowed: {allowed['Allow']}"
    return request.respond_error(MercuryError("bad_request", words), 405, allowed)
