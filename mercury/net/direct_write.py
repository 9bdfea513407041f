"""Writing through: straight into the socket when nothing waits before it.

Twisted's transport.write() only queues; the bytes leave in the reactor's next turn, at the cost of two changes to the
epoll set and a Python call or three a connection. When its buffers are empty, a send() right here does the same in one
system call. Whatever the socket does not take goes the usual way, so order and back-pressure stay Twisted's.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

from twisted.internet.tcp import Connection
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper

from mercury.net.io_uring import request


def plain(transport: Any) -> Any:
    """The TCP or UNIX connection of Twisted's own to which bytes go as they are; None if there is none, as with TLS.

    What reads a PROXY header at a connection's beginning does nothing with what is written.
    """
    if isinstance(transport, HAProxyProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, Connection) and not getattr(transport, "TLS", False) else None


def through(connection: Any, transport: Any) -> Callable[[bytes], int]:
    """What gives bytes to a plain() transport, for as long as the WebSocket `connection` is open and in their order:
    they are sent or kept, and it returns how many they are.

    While nothing is kept it makes the socket's own send() the connection's deliver(), which a room of 1,000 calls 1,000
    times a batch: 0.1 us around each system call in place of 0.5.
    """
    send, is_open = transport.socket.send, connection.STATE_OPEN
    ready = request(transport.socket.fileno())

    def put(data: bytes) -> int:
        size = len(data)
        if connection.state != is_open:
            return size
        rest = data
        if not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting):
            try:
                sent = send(data)
            except OSError:  # full; for anything else the reactor will find the same and close the connection properly
                sent = 0
            if sent == size:
                connection.deliver, connection.request = send, ready
                return size
            rest = data[sent:]
        connection.request = None
        connection.deliver = connection._put  # this function, without a circle that only gc would find
        transport.write(rest)
        return size

    return put


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
