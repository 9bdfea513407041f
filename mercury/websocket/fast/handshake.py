"""A fast opening handshake: Autobahn's server protocol without what is not needed here.

Autobahn sets up each connection with forty attributes of its own, two Deferreds, statistics and log lines, and answers
a request with as many lines again: 0.1 ms and 3 KB a connection. Here what is the same for all connections is kept in
the class, what few need is made when it is needed, and a plain request (request.py) is answered at once: 0.04 ms and
1 KB, which counts when all clients come back at the same time. Any other request goes the plain way, Autobahn's: each
method here calls the one that it replaces.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, TypeVar

from autobahn.twisted.util import peer2str
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.websocket.fast.request import END, parse_plain_request

MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

#: What Autobahn keeps of an opening handshake, and what is kept of a plain one.
HANDSHAKE: Final = (
    "_wskey", "http_headers", "http_request_data", "http_request_host", "http_request_params", "http_request_path",
    "http_request_uri", "http_response_data", "http_status_line", "websocket_extensions", "websocket_origin",
    "websocket_protocols",
)  # fmt: skip
PLAIN: Final = ("_wskey", "websocket_protocols")

#: What nearly every connection comes to have of its own.
OWN: Final = (
    "transport", "factory", "connected", "number", "peer", "handler", "receiver", "data", "state", "bytes_in",
    "bytes_out", "direct", "openHandshakeTimeoutCall", "_admitting", "_gone", "_writer", "_log_context", *PLAIN,
)  # fmt: skip

_log = Logger()


class _NoDeferred:
    """In place of the Deferreds that Autobahn fires when a connection opens or closes."""

    def callback(self, result: object) -> None:
        """The handler and the receiver are told instead."""


class FastHandshake(WebSocketServerProtocol):
    """Autobahn's protocol with a fast handshake. The factory adds class_defaults() to its subclass."""

    is_open = is_closed = _NoDeferred()
    send_queue: Any = ()  # for writes in pieces, which only Autobahn's own tests do
    trafficStats = TrafficStats()  # noqa: N815 - Autobahn's name; one for all: nobody reads it
    inside_message = False
    current_frame: Any = None
    openHandshakeTimeout: float  # noqa: N815 - Autobahn's name
    http_headers: Any = None
    _transport_details: Any = None
    _wskey: Any = None
    websocket_version = 13
    websocket_protocols: Any = ()
    websocket_extensions: Any = ()
    transport: Any
    factory: Any
    write: Callable[[bytes], None]

    def __init__(self) -> None:  # Autobahn's sets some of the attributes above
        pass

    @cached_property
    def utf8validator(self) -> Utf8Validator:  # type: ignore[override]  # Autobahn sets it in its set-up only
        """For texts that come in parts."""
        return Utf8Validator()

    def connectionMade(self) -> None:
        self.peer = peer2str(self.transport)
        with suppress(AttributeError, OSError):  # a UNIX socket
            self.transport.setTcpNoDelay(True)
        if self.openHandshakeTimeout > 0:
            timer = self.factory._batched_timer
            self.openHandshakeTimeoutCall = timer.call_later(self.openHandshakeTimeout, self.onOpenHandshakeTimeout)
        self.factory.countConnections += 1

    def processHandshake(self) -> None:
        end = self.data.find(END) + len(END)
        request = parse_plain_request(self.data[:end]) if end >= len(END) else None
        if request is None:
            super().processHandshake()
            return
        self.data = self.data[end:]
        self._wskey, self.websocket_protocols = request.key, request.protocols
        extensions = self._offers(request.extensions) if request.extensions else []
        if extensions:
            self.websocket_extensions = extensions
        try:
            answer: Any = self.onConnect(
                ConnectionRequest(
                    self.peer, request.headers, request.host, request.path, request.params, 13, request.origin,
                    request.protocols, extensions,
                )
            )  # fmt: skip
        except ConnectionDeny as no:
            self._refuse(no)
            return
        answer.addCallbacks(self.succeedHandshake, self._denied).addErrback(self._broken)

    def _offers(self, header: str) -> Any:
        return self._parseExtensionsHeader(header)  # type: ignore[no-untyped-call]

    def _denied(self, failure: Failure) -> None:
        if not isinstance(failure.value, ConnectionDeny):
            failure.raiseException()
        self._refuse(failure.value)

    def _refuse(self, no: ConnectionDeny) -> None:
        self.failHandshake(no.reason or "", no.code)

    def _broken(self, failure: Failure) -> None:
        _log.failure("answering the handshake of {peer} failed", failure, peer=self.peer)
        self.dropConnection(abort=True)

    def succeedHandshake(self, res: str | None) -> None:
        if self.websocket_extensions or self._wskey is None:
            super().succeedHandshake(res)
            return
        accept = base64.b64encode(hashlib.sha1(self._wskey.encode() + MAGIC, usedforsecurity=False).digest())
        chosen = b"Sec-WebSocket-Protocol: %b\r\n" % res.encode() if res is not None else b""
        self.state = self.STATE_OPEN
        self.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
            b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (chosen, accept)
        )
        if self.openHandshakeTimeoutCall is not None:
            self.openHandshakeTimeoutCall.cancel()
            self.openHandshakeTimeoutCall = None
        self._onOpen()
        if self.data:
            self.consumeData()

    def _onOpen(self) -> None:
        is_plain = self.http_headers is None and not self.websocket_extensions
        for name in PLAIN if is_plain else HANDSHAKE:  # a kilobyte or two that are not needed again
            with suppress(AttributeError):
                delattr(self, name)
        self.onOpen()


P = TypeVar("P", bound=FastHandshake)


def preset_attributes(protocol: type[P]) -> type[P]:
    """Show Python the attributes that connections of this class will have, by an example that has them all.

    Objects of a class share one table of their attributes' names, but only of those that the first thirty objects had;
    an object that gets another one later gets a table of its own, of 0.7 KB. When all clients come back at once that
    would be every connection, since hundreds are made before the first one is open.
    """
    example = protocol()
    for name in OWN:
        setattr(example, name, None)
    return protocol


def class_defaults(factory: Any) -> dict[str, Any]:
    """What Autobahn sets on each connection of a factory, the same for all: to be attributes of the class."""
    sample: Any = WebSocketServerProtocol()
    sample.factory = factory
    sample.openHandshakeTimeout = 0  # no timer for this one
    WebSocketProtocol._connectionMade(sample)
    own = vars(sample).keys() - {*sample.CONFIG_ATTRS}
    values = {name: value for name, value in vars(sample).items() if name in own}
    return {name: value for name, value in values.items() if isinstance(value, int | str | bytes | None)}
