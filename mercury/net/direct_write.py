"""Sending straight to a socket, when nothing waits before the bytes.

Twisted's transport.write() only queues; the bytes leave in the reactor's next turn, at the cost of two changes to the
epoll set and a few Python calls a connection. While its queue is empty, a send() at once does the same in one system
call. Whatever the socket does not take goes to transport.write(), so order and backpressure stay Twisted's.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any

from twisted.internet.tcp import Connection
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from zope.interface import implementer

from mercury.interfaces import IDirectWriter
from mercury.net.io_uring import send_sqe


def raw_tcp(transport: Any) -> Any:
    """Twisted's own TCP or UNIX connection, if bytes go to it as they are; None if not, as with TLS.

    The wrapper that reads a PROXY header passes on what is written unchanged.
    """
    if isinstance(transport, HAProxyProtocolWrapper):
        transport = transport.transport
    return transport if isinstance(transport, Connection) and not getattr(transport, "TLS", False) else None


def unsent_bytes(raw: Any) -> int:
    """How many bytes that were written to a raw_tcp() connection its peer has not taken yet.

    They are in Twisted's buffers and, as far as the kernel tells (tcp(7), SIOCOUTQ), in the socket's.
    """
    queued: int = len(raw.dataBuffer) - raw.offset + raw._tempDataLen
    try:
        (unsent,) = struct.unpack("i", fcntl.ioctl(raw.socket, termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        unsent = 0
    return queued + int(unsent)


@implementer(IDirectWriter)
class DirectWriter:
    """Sends to the socket of one raw_tcp() connection.

    `send` is the socket's own method: a room of 1,000 members calls it 1,000 times a batch, and each Python call
    between would cost a tenth of what the kernel takes.
    """

    __slots__ = ("_raw", "send", "sqe")

    def __init__(self, raw: Any) -> None:
        self.send = raw.socket.send
        self.sqe = send_sqe(raw.socket.fileno())
        self._raw = raw

    def try_send(self, data: bytes) -> int:
        """Send what the socket takes now, and return how many bytes that is: none if others wait before them."""
        raw = self._raw
        if raw.dataBuffer or raw._tempDataBuffer or raw.disconnecting:
            return 0
        try:
            sent: int = self.send(data)
        except OSError:  # full; after any other error the reactor closes the connection properly
            sent = 0
        return sent

    def unsent_bytes(self) -> int:
        """How many bytes of what was written the peer has not taken yet."""
        return unsent_bytes(self._raw)
