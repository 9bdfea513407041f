"""The listening sockets of all workers, which the supervisor binds and keeps open.

Each worker has its own socket on each port (SO_REUSEPORT, socket(7)): the kernel spreads new connections over them, by
a hash of addresses and ports. All stay open in the supervisor, so while a worker is restarted, connections wait in its
queue and none is refused. Only for a long pause, or when a worker stops alone, is its queue closed, which resets the
connections in it. A socket that systemd passes cannot be multiplied: all workers accept from that one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from mercury.node.banner import shown
from mercury.node.endpoints import cannot_be, cannot_listen, endpoint_of, listeners_of
from mercury.settings.schema import Config
from mercury.settings.types import ConfigError


class ListeningSockets:
    """Those of one supervisor. Twisted's endpoints call it in the reactor's place (listenTCP, adoptStreamPort)."""

    def __init__(self, count: int) -> None:
        self.addresses: list[str] = []  # for people to paste, in the order of listeners_of()
        self._count = count
        self._sockets: dict[str, list[socket.socket]] = {}
        self._made: list[socket.socket] = []  # of the listener that is being bound
        self._backlogs: dict[socket.socket, int] = {}  # of the sockets that belong to one worker

    def bind(self, config: Config, passed: Mapping[int, str]) -> set[str]:
        """Bind all; returns their endpoint strings. `passed`: the sockets that systemd passes, by port. If one cannot
        be bound, none is: ConfigError."""
        endpoints = {}
        try:
            for section, listener in listeners_of(config).items():
                endpoints[section] = endpoint_of(listener, passed)
                self._listen(section, endpoints[section], listener.endpoint)
        except ConfigError:
            self.close()
            raise
        return set(endpoints.values())

    def _listen(self, section: str, endpoint: str, own: str) -> None:
        """`own`: the endpoint in the settings, or empty."""
        made: list[Any] = []
        self._sockets[section] = self._made = []
        try:
            kind = endpoint.removeprefix("haproxy:").partition(":")[0]
            if kind not in ("tcp", "tcp6", "systemd"):
                raise ValueError("with workers, use a tcp: or systemd: endpoint, optionally with haproxy: before it")
            listening: Deferred[Any] = serverFromString(self, endpoint).listen(Factory())
        except (ValueError, TypeError, LookupError) as error:
            raise ConfigError(cannot_be(section, endpoint, error)) from None
        listening.addBoth(made.append)
        if isinstance(made[0], Failure):
            raise ConfigError(cannot_listen(section, endpoint, own, made[0].value))
        self.addresses.append(_shown(self._made[0]))

    def descriptors(self, worker: int) -> dict[str, int]:
        """The descriptors that a worker listens on, by section. Workers are counted from 1."""
        return {section: some[(worker - 1) % len(some)].fileno() for section, some in self._sockets.items()}

    def pause(self, worker: int) -> None:
        """Have the kernel give new connections to the other workers. Those in this worker's queues are reset."""
        for one in self._own(worker):
            one.shutdown(socket.SHUT_RDWR)

    def resume(self, worker: int) -> None:
        """Take new connections for this worker again, if it was paused."""
        for one in self._own(worker):
            one.listen(self._backlogs[one])

    def close(self) -> None:
        """Close all of them here; workers keep their own descriptors."""
        for some in self._sockets.values():
            for one in some:
                one.close()
        self._sockets.clear()

    def _own(self, worker: int) -> list[socket.socket]:
        return [some[worker - 1] for some in self._sockets.values() if some[0] in self._backlogs]

    # What endpoints call of a reactor

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        """A socket for each worker. Fails first if another process listens there, even if that one allows sharing."""
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        with socket.socket(family) as first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind((interface, port))
            port = first.getsockname()[1]
        for _ in range(self._count):
            one = socket.socket(family)
            self._made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.setblocking(False)
            one.bind((interface, port))
            one.listen(backlog)
            self._backlogs[one] = backlog

    def adoptStreamPort(self, descriptor: int, family: int, factory: object) -> None:
        """A socket that systemd has passed. The endpoint closes its own descriptor of it."""
        if family == socket.AF_UNIX:
            raise ValueError("workers cannot use UNIX sockets")
        self._made.append(socket.socket(fileno=os.dup(descriptor)))


def _shown(one: socket.socket) -> str:
    """A socket's address, for people to paste."""
    host, port = one.getsockname()[:2]
    return shown(IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port))
