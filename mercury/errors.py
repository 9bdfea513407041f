"""The one family of errors that reaches a user.

The core raises MercuryError with a code of CODES; each edge (WebSocket, REST, the client) translates it once,
at one place. A reason is written for the person who reads it: it names the thing and the way out, and it never
holds a token, a password or a message's text.
"""

from __future__ import annotations

from typing import Final, Literal

Code = Literal[
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "conflict",
    "too_large",
    "rate_limited",
    "busy",
    "unavailable",
    "internal",
]

#: code -> (HTTP status, meaning for a client). docs/protocol.md prints this table.
CODES: Final[dict[Code, tuple[int, str]]] = {
    "bad_request": (400, "the request is not valid; fix it before retrying"),
    "unauthorized": (401, "the token is unknown, expired or revoked; get a new one"),
    "forbidden": (403, "not allowed: not a member of that room, or an address that is not on the list"),
    "not_found": (404, "it does not exist"),
    "conflict": (409, "it conflicts with what is stored, such as a cid that was used before with another text"),
    "too_large": (413, "over a limit; the reason names the limit"),
    "rate_limited": (429, "too many requests; try again after retry_after seconds"),
    "busy": (503, "too much work is waiting; try again after retry_after seconds"),
    "unavailable": (503, "the store does not answer; nothing was acknowledged; try again after retry_after seconds"),
    "internal": (500, "an error in Mercury itself; the log has the details"),
}


Limit = Literal[
    "address",
    "proxies",
    "connections",
    "connections-per-address",
    "connections-per-member",
    "messages-per-second",
    "typing",
    "text-bytes",
    "frame-bytes",
    "body-bytes",
    "handshake-seconds",
    "request-seconds",
    "rooms-per-member",
    "friends",
    "logins-per-minute",
    "registrations-per-minute",
    "passwords",
    "journal",
    "store-calls",
]

#: limit -> meaning. docs/metrics.md prints this table.
LIMITS: Final[dict[Limit, str]] = {
    "address": "connections from an address that is not on the listener's list (`address`)",
    "proxies": "connections to a `haproxy:` endpoint from an address that is not a listed proxy (`proxies`)",
    "connections": "connections over `--limits.connections`, `--server.api.connections` or `--gotalk.connections`",
    "connections-per-address": "connections over `--limits.connections-per-address`, or goTalk's setting of that name",
    "connections-per-member": "connections over `--limits.connections-per-member`",
    "messages-per-second": "sends over `--limits.messages-per-second` for one member",
    "typing": "typing notices over ten per second for one member",
    "text-bytes": "texts longer than `--limits.text-bytes`",
    "frame-bytes": "WebSocket messages larger than `--limits.frame-bytes`; the connection is closed with 1009",
    "body-bytes": "HTTP bodies larger than `--limits.body-bytes`",
    "handshake-seconds": "WebSocket handshakes or logins that took longer than `--limits.handshake-seconds`",
    "request-seconds": "HTTP requests not received, or answers not read, within `--limits.request-seconds`",
    "rooms-per-member": "joins over `--limits.rooms-per-member`",
    "friends": "friends over `--gotalk.friends`",
    "logins-per-minute": "logins refused after too many wrong passwords (`--gotalk.logins-per-minute`)",
    "registrations-per-minute": "registrations over `--gotalk.registrations-per-minute`",
    "passwords": "logins while 64 others already wait for their password check",
    "journal": "sends while 16,384 others (or 64 Mi characters) wait for the store; read marks, likewise",
    "store-calls": "calls to the store while 10,000 others wait",
}


class MercuryError(Exception):
    """Something was refused or failed. `retry_after` is in seconds, None where trying again does not help.

    `limit`: what it was refused by, if it was a limit.
    """

    def __init__(
        self, code: Code, reason: str, retry_after: float | None = None, *, limit: Limit | None = None
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code: Code = code
        self.reason = reason
        self.retry_after = retry_after
        self.limit: Limit | None = limit
