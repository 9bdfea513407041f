"""The opening handshake of a WebSocket (RFC 6455, 4.2): a handler admits the peer, or it gets an HTTP error in JSON.

Autobahn reads the request and answers it. FastHandshake is Autobahn's class with shortcuts for plain requests; with
WebSocketServerProtocol in its place all would work as it does, more slowly.
"""

from __future__ import annotations

import json
from typing import Any, Final

from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.domain.log_context import LogContext, in_context, start_in_context
from mercury.errors import CODES, MercuryError
from mercury.websocket.fast.handshake import FastHandshake
from mercury.websocket.handler import FrameReceiver, WebSocketHandler

RETRY_SECONDS: Final = 1  # after which a client that got 503 should try again

_log = Logger()


class Handshake(FastHandshake):
    """A connection up to the moment when it is open. `handler` until then, `receiver` from then on."""

    handler: WebSocketHandler | None = None
    receiver: FrameReceiver | None = None
    number: int
    _log_context: LogContext
    _admitting = False
    _gone = False
    _ended: int | None = None  # the code with which we ended it: HTTP's, or WebSocket's

    def onConnect(self, request: ConnectionRequest) -> Any:
        if not self.factory.welcomes(request.origin):
            raise ConnectionDeny(403, "pages of this origin may not connect (--server.ws.origins)")
        self._admitting = True
        self.handler = handler = self.factory.make_handler(self)
        return start_in_context(self._log_context, handler.admit(request)).addErrback(self._deny)

    def _deny(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, MercuryError):
            _log.failure("admitting {peer} failed", failure, peer=self.peer, session=self.number)
            error = MercuryError("internal", "an internal error in Mercury; the log has the details")
        self.factory.counts.error(error)
        raise ConnectionDeny(CODES[error.code][0], error.reason)

    def succeedHandshake(self, res: Any) -> None:
        self._admitting = False
        if not self._gone:
            in_context(self._log_context, super().succeedHandshake, res)

    def onOpen(self) -> None:
        if self.handler is not None:
            self.receiver, self.handler = self.handler.opened(self._perMessageCompress is not None), None

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Answer with HTTP and hang up. Autobahn's own would log the reason, which may quote a token."""
        self._admitting = False
        _log.debug("the handshake of {peer} was refused with {code}", peer=self.peer, code=code, session=self.number)
        self._ended = code
        self.wasNotCleanReason = f"the handshake was refused with {code}"
        self.sendHttpErrorResponse(code, reason, responseHeaders)
        self.dropConnection(abort=False)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        self.sendData(refusal(code, reason, responseHeaders or ()))

    def onOpenHandshakeTimeout(self) -> None:
        if self.state == self.STATE_CONNECTING:
            self.factory.counts.refused["handshake-seconds"] += 1
        super().onOpenHandshakeTimeout()


def refusal(status: int, reason: str, headers: Any) -> bytes:
    """An HTTP response that refuses a handshake. `headers`: pairs of further ones."""
    code = next((code for code, (known, _) in CODES.items() if known == status), "bad_request")
    body = json.dumps({"status": "error", "error": reason, "code": code}).encode()
    lines = [f"HTTP/1.1 {status} {'Upgrade Required' if status == 426 else code}", "Content-Type: application/json"]
    lines += [f"{key}: {value}" for key, value in headers]
    lines += ["Upgrade: websocket"] if status == 426 else []
    lines += [f"Retry-After: {RETRY_SECONDS}"] if status == 503 else []  # RFC 9110, 10.2.3
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body
