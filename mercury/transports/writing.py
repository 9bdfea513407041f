"""Writing through: straight into the socket when nothing waits before it.

Twisted's transport.write() only queues; the bytes leave in the reactor's next turn, at the cost of two changes to the
epoll set and a Python call or three a connection. When its buffers are empty, a send() right here does the same in one
system call. Whatever the socket does not take goes the usual way, so order and back-pressure stay Twisted's.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any, Protocol

from twisted.internet.tcp import Connection
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper


def plain(transport: Any) -> Any:
    """The TCP or UNIX connection of Twisted's own to which bytes go as they are; None if there is none, as with TLS.

    What reads a PROXY header at a connection's beginning does nothing with what is written.
    """
    if isinstance(transport, HAProxyProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, Connection) and not getattr(transport, "TLS", False) else None


class Write(Protocol):
    """Takes what is to be written."""

    def __call__(self, data: bytes) -> None: ...


def through(connection: Any, transport: Any) -> Write:
    """What writes to a plain() transport for as long as the WebSocket `connection` is open, and counts the bytes.

    It is called for each delivery, so it is one function that has all at hand and calls but one other.
    """
    send, is_open = transport.socket.send, connection.STATE_OPEN

    def write(data: bytes) -> None:
        if connection.state != is_open:
            return
        size = len(data)
        connection.bytes_out += size
        if not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting):
            try:
                sent = send(data)
            except OSError:  # full; for anything else the reactor will find the same and close the connection properly
                sent = 0
            if sent == size:
                return
            data = data[sent:]
        transport.write(data)

    return write


def waiting(transport: Any) -> int:
    """How many bytes the peer has not taken yet of what was written to a plain() transport.

    They are in Twisted's buffers and, as far as the kernel tells (tcp(7), SIOCOUTQ), in the socket's.
    """
    waits: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    try:
        (unsent,) = struct.unpack("i", fcntl.ioctl(transport.socket, termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        unsent = 0
    return waits + int(unsent)
