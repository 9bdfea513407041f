"""Why a connection was closed, as WebSocket close codes (RFC 6455, 7.4). docs/protocol.md prints this table.

1012 and 1013 are registered with IANA ("Service Restart", "Try Again Later"); 4000 to 4999 are an application's own.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class CloseReason(NamedTuple):
    """A close code, the reason that goes with it, and whether the client should come back by itself."""

    code: int
    reason: str
    reconnect: bool


GONE: Final = CloseReason(1001, "nothing was received from the client", True)
RESTART: Final = CloseReason(1012, "the server is restarting", True)
BUSY: Final = CloseReason(1013, "too busy, try again later", True)
BAD_CONNECT: Final = CloseReason(4400, "the first frame must be a valid connect", False)
UNAUTHORIZED: Final = CloseReason(4401, "the token is unknown, expired or revoked", False)
KICKED: Final = CloseReason(4403, "kicked by the application", False)
TOO_SLOW: Final = CloseReason(4408, "the client did not read what was sent to it", True)

ALL: Final = (GONE, RESTART, BUSY, BAD_CONNECT, UNAUTHORIZED, KICKED, TOO_SLOW)
