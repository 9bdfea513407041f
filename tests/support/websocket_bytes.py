"""What a WebSocket client sends, as bytes (RFC 6455): for tests that send what no client would."""

from __future__ import annotations

import base64
import os


def upgrade(target: str, *headers: str) -> bytes:
    """An opening handshake (4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *headers, "", ""]
    return "\r\n".join(lines).encode()


def masked(payload: bytes, first: int = 0x81) -> bytes:
    """A frame, with a mask that changes nothing (5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload
