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

#: code -> (HTTP status, what it means to a client). docs/protocol.md prints this table.
CODES: Final[dict[Code, tuple[int, str]]] = {
    "bad_request": (400, "the request cannot be understood; mend it before sending it again"),
    "unauthorized": (401, "the token is unknown, expired or revoked; get a new one"),
    "forbidden": (403, "not allowed: not a member of that room, or an address that is not on the list"),
    "not_found": (404, "there is no such thing"),
    "conflict": (409, "it contradicts what is stored, such as a cid used before with another text"),
    "too_large": (413, "longer or more than a limit allows; the reason names the limit"),
    "rate_limited": (429, "too fast; try again after retry_after seconds"),
    "busy": (503, "more work is waiting than Mercury takes on; try again after retry_after seconds"),
    "unavailable": (503, "the store does not answer; nothing was acknowledged; try again after retry_after seconds"),
    "internal": (500, "a fault of Mercury's own; it is in the log"),
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

#: limit -> what it is. docs/metrics.md prints this table.
LIMITS: Final[dict[Limit, str]] = {
    "address": "a connection from an address that is not on the listener's list (`address`)",
    "proxies": "a connection to a `haproxy:` endpoint from what is no listed proxy (`proxies`)",
    "connections": "a connection beyond `--limits.connections`, `--server.api.connections` or `--gotalk.connections`",
    "connections-per-address": "one beyond `--limits.connections-per-address`, or goTalk's",
    "connections-per-member": "one beyond `--limits.connections-per-member`",
    "messages-per-second": "a send over `--limits.messages-per-second` of one member",
    "typing": "a typing notice: more than ten a second of one member",
    "text-bytes": "a text longer than `--limits.text-bytes`",
    "frame-bytes": "a WebSocket frame longer than `--limits.frame-bytes`; its connection was closed with 1009",
    "body-bytes": "an HTTP body longer than `--limits.body-bytes`",
    "handshake-seconds": "a WebSocket that was not there, or not logged in, within `--limits.handshake-seconds`",
    "request-seconds": "an HTTP request that did not come, or an answer not taken, within `--limits.request-seconds`",
    "rooms-per-member": "somebody put into more rooms than `--limits.rooms-per-member`",
    "friends": "a friend beyond `--gotalk.friends`",
    "logins-per-minute": "a wrong password beyond `--gotalk.logins-per-minute`",
    "registrations-per-minute": "a registration beyond `--gotalk.registrations-per-minute`",
    "passwords": "a login while 64 wait already for their passwords to be checked",
    "journal": "a send while 16,384 others, or 64 Mi characters, wait for the store, or a read mark while as many do",
    "store-calls": "a call of the store while 10,000 others wait for it",
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
