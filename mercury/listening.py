"""What a node listens on: one record for each of its ports, which the service binds and a reload looks at."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.protocols.haproxy import proxyEndpoint

from mercury.transports.filtering import AddressFilter
from mercury.transports.tls import Certificate


class Listening(NamedTuple):
    """One listener: the settings' section that it belongs to, its endpoint string, what serves there, and with which
    certificate if it does so by TLS. `wanted`: the endpoint string that the settings ask for now. `passed`: the
    descriptor of a socket that listens there already, if this is a worker."""

    section: str
    endpoint: str
    factory: AddressFilter
    certificate: Certificate | None
    wanted: Callable[[], str]
    passed: int | None = None

    def listen(self, reactor: Any) -> Deferred[IListeningPort]:
        """Listen there; TCP, UNIX and systemd endpoints fire at once. May raise what serverFromString() does."""
        if self.passed is None:
            endpoint: Any = serverFromString(reactor, self.endpoint)
        else:
            with socket.socket(fileno=os.dup(self.passed)) as one:
                endpoint = AdoptedStreamServerEndpoint(reactor, self.passed, one.family)
            if self.endpoint.startswith("haproxy:"):
                endpoint = proxyEndpoint(endpoint)
        port: Deferred[IListeningPort] = endpoint.listen(self.factory)
        return port
