"""Writing through: straight into the socket when nothing waits before it.

Twisted's transport.write() only queues; the bytes leave in the reactor's next turn, at the cost of two changes to the
epoll set and a Python call or three a connection. When its buffers are empty, a send() right here does the same in one
system call. Whatever the socket does not take goes the usual way, so order and back-pressure stay Twisted's.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


def can_write_through(transport: Any) -> bool:
    """Whether this is a plain TCP or UNIX connection of Twisted's own, not TLS, whose buffers we know."""
    return isinstance(transport, Connection) and not getattr(transport, "TLS", False)


def write_through(transport: Any, data: bytes) -> None:
    """Write to a transport for which can_write_through() holds."""
    if (
        transport.connected
        and not transport.disconnecting
        and not transport.dataBuffer
        and not transport._tempDataBuffer
    ):
        try:
            sent = transport.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = 0  # the reactor will find the same and close the connection properly
        if sent == len(data):
            return
        if sent:
            data = data[sent:]
    transport.write(data)


def waiting(transport: Any) -> int:
    """How many bytes a transport holds that the socket has not taken yet."""
    waits: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return waits
