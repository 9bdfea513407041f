"""What a node listens on: one record for each of its ports, which the service binds and a reload looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mercury.transports.filtering import AddressFilter
from mercury.transports.tls import Certificate


class Listening(NamedTuple):
    """One listener: the settings' section that it belongs to, its endpoint string, what serves there, and with which
    certificate if it does so by TLS. `wanted`: the endpoint string that the settings ask for now."""

    section: str
    endpoint: str
    factory: AddressFilter
    certificate: Certificate | None
    wanted: Callable[[], str]

    def scheme(self, plain: str) -> str:
        """What its URLs begin with, `plain` being without TLS."""
        return f"{plain}s" if self.certificate else plain
