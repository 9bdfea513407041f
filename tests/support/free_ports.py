"""TCP ports of 127.0.0.1 for servers that a test starts, and starts again, in processes of their own."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

_random = random.SystemRandom()  # several test runs at once must not draw the same ports
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that no call has given before.

    It is below those that the kernel gives to outgoing connections: one of these could take the port while the server
    is down, and a client that connects to it then could even reach itself, and keep the server from its own port.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = _random.randrange(10_000, lowest)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given:
                _given.add(port)
                return port
