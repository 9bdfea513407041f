"""Writing through: straight into the socket when nothing waits before it.

Twisted's transport.write() only queues; the bytes leave in the reactor's next turn, at the cost of two changes to the
epoll set and a Python call or three a connection. When its buffers are empty, a send() right here does the same in one
system call. Whatever the socket does not take goes the usual way, so order and back-pressure stay Twisted's.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any

from twisted.internet.tcp import Connection
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper


def plain(transport: Any) -> Any:
    """The TCP or UNIX connection of Twisted's own to which bytes go as they are; None if there is none, as with TLS.

    What reads a PROXY header at a connection's beginning does nothing with what is written.
    """
    if isinstance(transport, HAProxyProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, Connection) and not getattr(transport, "TLS", False) else None


def write_through(transport: Any, data: bytes) -> None:
    """Write to a plain() transport."""
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
    """How many bytes the peer has not taken yet of what was written to a plain() transport.

    They are in Twisted's buffers and, as far as the kernel tells (tcp(7), SIOCOUTQ), in the socket's.
    """
    waits: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    try:
        (unsent,) = struct.unpack("i", fcntl.ioctl(transport.socket, termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        unsent = 0
    return waits + int(unsent)
