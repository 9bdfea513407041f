"""A test client's readiness for compression: class Deflater(Deflating, V2Client)."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)

from tests.support.recording_clients import Client


class Deflating(Client):
    """Offers permessage-deflate (RFC 7692). `compressed`: whether that was accepted."""

    compressed = False

    def options(self, factory: Any) -> None:
        def accept(response: Any) -> Any:
            assert isinstance(response, PerMessageDeflateResponse)
            self.compressed = True
            return PerMessageDeflateResponseAccept(response)

        super().options(factory)
        factory.setProtocolOptions(
            perMessageCompressionOffers=[PerMessageDeflateOffer()], perMessageCompressionAccept=accept
        )
