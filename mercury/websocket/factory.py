"""Makes WebSocket connections, with all of Autobahn's options set: its defaults are not made for strangers.

What is done with a connection is left to a handler: admission.py has chat's; the conformance suite puts an echo behind
exactly this factory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from mercury.domain.counters import Counters
from mercury.settings.limits import Limits
from mercury.settings.schema import Ws
from mercury.settings.types import origins
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.fast.handshake import class_defaults, preset_attributes
from mercury.websocket.handler import WebSocketHandler


class WebSocketFactory(WebSocketServerFactory):
    """`limits` and `ws` may change at any time. The limits hold for open connections as well, but a deflated message is
    held to the limit with which its connection began. `counts`: where connections are counted for the metrics.
    """

    protocol = WebSocketConnection

    def __init__(
        self,
        make_handler: Callable[[WebSocketConnection], WebSocketHandler],
        *,
        reactor: Any,
        limits: Limits,
        ws: Ws,
        counts: Counters | None = None,
    ) -> None:
        super().__init__(reactor=reactor)  # type: ignore[no-untyped-call]
        self.make_handler = make_handler
        self.counts = counts or Counters()
        self.server = None  # no version for strangers
        self.limits = limits
        self._ws = ws
        self.setProtocolOptions(  # type: ignore[no-untyped-call]
            versions=[13],
            webStatus=False,
            utf8validateIncoming=True,
            requireMaskedClientFrames=True,
            failByDrop=False,
            echoCloseCodeReason=False,
            closeHandshakeTimeout=0,
            tcpNoDelay=True,
            perMessageCompressionAccept=self._accept_deflate,
            autoPingInterval=0,
            serveFlashSocketPolicy=False,
            allowedOrigins=["*"],  # welcomes() looks: Autobahn would want the port written out, even 443
            allowNullOrigin=True,
            maxConnections=0,
            trustXForwardedFor=0,
        )
        self.protocol = self._configured()

    def _configured(self) -> type[WebSocketConnection]:
        """The protocol class with the options as its own: Autobahn would copy and format them for each connection.
        Those that may change are looked up when Autobahn asks for them."""
        options: dict[str, Any] = {name: getattr(self, name) for name in WebSocketConnection.CONFIG_ATTRS}
        options = {name: staticmethod(value) if callable(value) else value for name, value in options.items()}
        limits = self.limits
        options["maxFramePayloadSize"] = options["maxMessagePayloadSize"] = property(lambda _: limits.frame_bytes)
        options["openHandshakeTimeout"] = property(lambda _: _in_whole_seconds(limits.handshake_seconds))
        values = {**class_defaults(self), **options, "CONFIG_ATTRS": ()}
        return preset_attributes(type("WebSocketConnection", (WebSocketConnection,), values))

    def welcomes(self, origin: str | None) -> bool:
        """Whether a script from this origin (RFC 6454, 6.1) may connect. Programs name none."""
        return not origin or _pattern(self._ws.origins).fullmatch(origin.lower()) is not None

    def _accept_deflate(self, offers: Sequence[Any]) -> Any:
        """If messages are to be compressed, take the first deflate offer; ask the peer for small state: no context kept
        between its messages."""
        for offer in offers:
            if self._ws.compression and isinstance(offer, PerMessageDeflateOffer):
                return PerMessageDeflateOfferAccept(
                    offer,
                    request_no_context_takeover=offer.accept_no_context_takeover,
                    no_context_takeover=True,
                    window_bits=offer.request_max_window_bits or None,
                    max_message_size=self.limits.frame_bytes or None,
                )
        return None


@lru_cache(maxsize=16)
def _pattern(allowed: str) -> re.Pattern[str]:
    """What fits the origins of a list, in lower case."""
    parts = [re.escape(origin.lower()).replace(r"\*", "[^/]*") for origin in origins(allowed)]
    return re.compile(".*" if "*" in origins(allowed) else "|".join(parts), re.DOTALL)


def _in_whole_seconds(limit: float) -> float:
    """Autobahn rounds a timeout down to them; 0 is none."""
    return limit and limit + 1
