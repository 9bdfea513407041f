"""Connections that take their time, as a program of its own, so that whoever measures meanwhile is not slowed down by
making them.

`python slow_peers.py PORT COUNT WAY` keeps COUNT of them open, and opens a new one for each that the server closes. It
says "open" when all are, and when as many have been closed, after how many seconds the first of them was; and ends when
its standard input does, or nobody wants it any more. A way that begins with "tls " is gone within TLS. To port 0 all of
that is done as well, but nobody is there.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from contextlib import suppress

WAIT = 0.1  # seconds between two bytes
LONGEST = 30.0  # seconds that all of it takes at most
HOST = b" HTTP/1.1\r\nHost: x\r\n"
WEBSOCKET = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Protocol: mercury.v2.json\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
PROXY = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n"

#: For each way of being slow: what is sent at once, and what then, byte by byte, again and again.
WAYS = {
    "silent": (b"", b""),
    "handshake": (b"GET /ws/connect" + HOST + WEBSOCKET, b"X: y\r\n"),
    "no login": (b"GET /ws/connect" + HOST + WEBSOCKET + KEY, b"\x8a\x80\0\0\0\0"),  # pongs
    "headers": (b"POST /send" + HOST, b"X: y\r\n"),
    "body": (b"POST /send" + HOST + b"Content-Length: 9999\r\n\r\n", b"x"),
    "chunks": (b"POST /send" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "half a hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0"),  # TLS's
    "proxy header": (b"PROXY TCP4 192.0", b".0"),
    "proxied silence": (PROXY, b""),
    "proxied headers": (PROXY + b"POST /send" + HOST, b"X: y\r\n"),
    "proxied body": (PROXY + b"POST /send" + HOST + b"Content-Length: 9999\r\n\r\n", b"x"),
}


class Peer:
    """One of them."""

    def __init__(self, port: int, way: str) -> None:
        at_once, self._then = WAYS[way.removeprefix("tls ")]
        self.socket = socket.create_connection(("127.0.0.1", port))
        if way.startswith("tls "):
            import ssl  # which takes longer than all else

            self.socket = ssl._create_unverified_context().wrap_socket(self.socket)
        self.since = time.monotonic()
        self._next = 0
        self.socket.send(at_once)
        self.socket.setblocking(False)

    def reads(self) -> bool:
        """Whether there was something to read, and not the connection's end."""
        try:
            return bool(self.socket.recv(65536))
        except OSError as error:
            return type(error).__name__ == "SSLWantReadError"  # it was TLS's own

    def go_on(self) -> None:
        """Send another byte."""
        with suppress(OSError):  # its end is seen by reading
            self.socket.send(self._then[self._next :][:1])
        self._next = (self._next + 1) % max(1, len(self._then))


def run(port: int, count: int, way: str) -> None:
    """What the program does."""
    nobody = socket.create_server(("127.0.0.1", 0), backlog=count)
    port = port or nobody.getsockname()[1]
    peers: dict[socket.socket, Peer] = {}
    ages: list[float] = []
    is_open = False
    began = next_byte = time.monotonic()
    while time.monotonic() < began + LONGEST:
        while len(peers) < count:
            peer = Peer(port, way)
            peers[peer.socket] = peer
        if not is_open:
            print("open", flush=True)
            is_open = True
        ready, _, _ = select.select([sys.stdin, *peers], [], [], max(0.0, next_byte - time.monotonic()))
        if sys.stdin in ready:
            break
        for peer in [peers[one] for one in ready if isinstance(one, socket.socket)]:
            if not peer.reads():
                ages.append(time.monotonic() - peer.since)
                if len(ages) == count:
                    print(min(ages), flush=True)
                del peers[peer.socket]
                peer.socket.close()
        if time.monotonic() >= next_byte:
            next_byte = time.monotonic() + WAIT
            for peer in peers.values():
                peer.go_on()


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
