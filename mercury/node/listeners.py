"""What a node listens on: one record for each of its ports, which the service binds and a reload looks at."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.protocols.haproxy import proxyEndpoint

from mercury.net.address_filter import AddressFilter
from mercury.net.tls import Certificate

ADOPTED: Final = 4096  # connections that may wait: debian/mercury.socket's, and Linux' own limit (somaxconn)


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
        listens_already = self.passed is not None or "systemd:" in self.endpoint
        return port.addCallback(_with_room) if listens_already else port


def _with_room(port: Any) -> Any:
    """Twisted, by listening once more, has cut the queue of those who wait to be accepted to 50."""
    port.socket.listen(ADOPTED)
    return port
