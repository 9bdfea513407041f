"""REST by Klein: the way from an HTTP request to a call (calls.py) and back.

Importing Klein installs the reactor, so it is imported when a site is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mercury.core.parts import Chat
from mercury.http.responses import Quoted, answered, no_route, refuse_strange_pages
from mercury.http.results import Result
from mercury.http.server import HttpRequest, Site
from mercury.rest.api_keys import ApiKeys
from mercury.rest.calls import RestApi
from mercury.rest.connections import MemberConnections
from mercury.rest.declare import Call
from mercury.rest.metrics import Metrics
from mercury.rest.openapi import CALLS, document
from mercury.rest.readiness import Readiness

CALL_SECONDS = 30.0  # for a call's work; the store's own limits are shorter


def make_site(
    chat: Chat, keys: ApiKeys, readiness: Readiness, metrics: Metrics, connections: MemberConnections
) -> Site:
    """The factory of the REST API's port. `readiness` and `metrics` answer /readyz and /metrics."""
    from klein import Klein
    from werkzeug.exceptions import HTTPException

    api = RestApi(chat, readiness, metrics, connections, msgspec.json.encode(document()))
    app = Klein()
    for call in CALLS:
        path = call.path.replace("{", "<").replace("}", ">")
        app.route(path, methods=[call.method], endpoint=call.name)(_route(api, call, keys, chat.clock))

    @app.handle_errors(HTTPException)
    def nothing_there(request: Any, failure: Failure) -> bytes:
        return no_route(request, failure.value, "GET /openapi.json lists all")

    return Site(Quoted(app.resource()), chat)


def _route(api: RestApi, call: Call, keys: ApiKeys, clock: Any) -> Callable[..., Deferred[bytes]]:
    """What Klein calls for a request."""

    def respond(request: HttpRequest, **names: str) -> Deferred[bytes]:
        return answered(
            _work(api, call, keys, request, names), request, f"{call.method} {call.path}", clock, CALL_SECONDS
        )

    return respond


async def _work(api: RestApi, call: Call, keys: ApiKeys, request: HttpRequest, names: dict[str, str]) -> bytes:
    refuse_strange_pages(request)
    if not call.open:
        keys.check(request.getHeader(b"authorization"))
    _, _, query = request.uri.partition(b"?")

    def headers(name: str) -> list[bytes]:
        return list(request.requestHeaders.getRawHeaders(name.encode(), []))

    given = call.read(names, query, headers, request.content.read())
    result = await call.handler(api, **given)
    if call.media is not None:
        return request.respond(200, bytes(result), {"Content-Type": call.media})
    status = result.http_status if isinstance(result, Result) else 200
    shape = {"status": "ok"} if result is None else {"status": "ok", "body": result}
    return request.respond(status, msgspec.json.encode(shape), {})
