"""REST by Klein: the way from an HTTP request to a call (rest_calls.py) and back, and every error's one translation.

What a call writes is written and delivered even if its client hangs up meanwhile: Klein then cancels what it waits for,
which here is never the work itself. Importing Klein installs the reactor, so it is imported when a site is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource

from mercury.core.batches import as_error
from mercury.core.chat import Chat
from mercury.errors import MercuryError
from mercury.protocols.rest import Result
from mercury.transports.calls import Call
from mercury.transports.openapi import CALLS, document
from mercury.transports.rest_calls import Api
from mercury.transports.web import Request, Site, error_body

CALL_SECONDS = 30.0  # for a call's work; the store's own limits are shorter

_log = Logger()


def make_site(chat: Chat, *, body_bytes: int, ready: Callable[[], bool]) -> Site:
    """The REST API's factory. `ready`: whether this node takes part now, for /readyz."""
    from klein import Klein
    from werkzeug.exceptions import HTTPException

    api = Api(chat, ready, msgspec.json.encode(document()))
    app = Klein()
    for call in CALLS:
        path = call.path.replace("{", "<").replace("}", ">")
        app.route(path, methods=[call.method], endpoint=call.name)(_route(api, call, chat.clock))

    @app.handle_errors(HTTPException)
    def no_route(request: Any, failure: Failure) -> bytes:
        return _no_route(request, failure.value)

    return Site(Quoted(app.resource()), chat.clock, body_bytes)


class Quoted(Resource):
    """Gives Klein the path as it was sent: unquoted, a name's slash would be taken for the path's."""

    def __init__(self, routes: IResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._routes = routes

    def render(self, request: Request) -> Any:
        if not request.path.isascii():
            return request.respond_error(MercuryError("bad_request", "the path is not percent-encoded UTF-8"))
        request.postpath = request.path[1:].split(b"/")
        return self._routes.render(request)


def _route(api: Api, call: Call, clock: Any) -> Callable[..., Deferred[bytes]]:
    """What Klein calls for a request. Its Deferred may be cancelled, or time out; the call's work goes on."""

    def respond(request: Request, **names: str) -> Deferred[bytes]:
        answer: Deferred[bytes] = Deferred()
        work = Deferred.fromCoroutine(_work(api, call, request, names))
        work.addErrback(_log_fault, call).chainDeferred(answer)
        return answer.addTimeout(CALL_SECONDS, clock).addErrback(_failed, request)

    return respond


async def _work(api: Api, call: Call, request: Request, names: dict[str, str]) -> bytes:
    _refuse_strange_pages(request)
    _, _, query = request.uri.partition(b"?")

    def headers(name: str) -> list[bytes]:
        return list(request.requestHeaders.getRawHeaders(name.encode(), []))

    given = call.read(names, query, headers, request.content.read())
    result = await call.handler(api, **given)
    if isinstance(result, msgspec.Raw):
        return request.respond(200, bytes(result), {})
    status = result.http_status if isinstance(result, Result) else 200
    shape = {"status": "ok"} if result is None else {"status": "ok", "body": result}
    return request.respond(status, msgspec.json.encode(shape), {})


def _refuse_strange_pages(request: Request) -> None:
    """A browser on a machine that may call sends what any web page tells it to, and says by Origin whose page it is."""
    origin = request.getHeader(b"origin")
    if origin is not None and urlsplit(origin).netloc.lower() != (request.getHeader(b"host") or b"").lower():
        raise MercuryError("forbidden", "web pages of other origins may not call this")


def _log_fault(failure: Failure, call: Call) -> Failure:
    """Log what is Mercury's own fault, once, also if nobody waits for the answer any more."""
    if not failure.check(MercuryError):
        _log.failure("{method} {path} failed", failure, method=call.method, path=call.path)
    return failure


def _failed(failure: Failure, request: Request) -> Any:
    """The one translation of errors into answers."""
    if failure.check(CancelledError):
        return failure  # the client is gone; Klein knows
    if failure.check(TookTooLong):
        return request.respond_error(
            MercuryError("unavailable", "this takes too long; whether it will be done is not known", 1.0)
        )
    return request.respond_error(as_error(failure))


def _no_route(request: Request, refusal: Any) -> bytes:
    """What is answered where no call is; OPTIONS gets the methods that a path has (RFC 9110, 9.3.7)."""
    methods = getattr(refusal, "valid_methods", None)
    if methods is None:
        return request.respond_error(MercuryError("not_found", "there is nothing here; GET /openapi.json lists all"))
    allowed = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
    if request.method == b"OPTIONS":
        return request.respond(200, b'{"status":"ok"}', allowed)
    words = f"{request.method.decode('ascii', 'replace')} is not possible here; possible: {allowed['Allow']}"
    return request.respond(405, error_body(MercuryError("bad_request", words)), allowed)
