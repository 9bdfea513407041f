"""The limits among the settings: the one section of mercury/settings/schema.py that is long enough for a file of
its own.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mercury.settings.types import LIVE, Count, CountOrNone, Seconds, SecondsOrNone, Section


class Limits(Section):
    """Limits on what one client may use, so that no client harms the others."""

    frame_bytes: Annotated[
        int,
        LIVE,
        Meta(
            ge=0, le=16_777_216, description="The largest WebSocket message a client may send, in bytes. 0: no limit."
        ),
    ] = 65536
    text_bytes: Annotated[
        int,
        LIVE,
        Meta(ge=0, le=16_777_216, description="The longest text of a chat message, in bytes of UTF-8. 0: no limit."),
    ] = 16384
    body_bytes: Annotated[
        int, LIVE, Meta(ge=128, le=67_108_864, description="The largest body of a REST request, in bytes.")
    ] = 1_048_576
    request_seconds: Annotated[
        Seconds,
        LIVE,
        Meta(
            description="How long a request to REST or goTalk may take to arrive, counted from the start of the "
            "connection or from the last answer, TLS included. The client must read the answer in the same time plus "
            "one second per 16 KiB."
        ),
    ] = 60.0
    handshake_seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(
            description="How long a WebSocket handshake may take, TLS included, and then again how long the client may "
            "take to log in with its first frame. 0: no limit."
        ),
    ] = 5.0
    ping_seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(
            description="How often a client is pinged. After two missed pings in a row it is disconnected. 0: no pings."
        ),
    ] = 25.0
    drain_seconds: Annotated[
        Seconds, LIVE, Meta(description="A client that reads nothing for this long is disconnected.")
    ] = 60.0
    connections: Annotated[
        CountOrNone, LIVE, Meta(description="Maximum number of WebSocket connections. 0: no limit.")
    ] = 100_000
    connections_per_address: Annotated[
        CountOrNone, LIVE, Meta(description="Maximum number of WebSocket connections from one address. 0: no limit.")
    ] = 0
    connections_per_member: Annotated[
        CountOrNone, LIVE, Meta(description="Maximum number of WebSocket connections of one member. 0: no limit.")
    ] = 64
    messages_per_second: Annotated[
        float,
        LIVE,
        Meta(ge=0, le=1_000_000, description="How many messages per second a member may send. 0: no limit."),
    ] = 0.0
    burst: Annotated[
        CountOrNone,
        LIVE,
        Meta(
            description="How many messages a member may send at once when the rate per second is limited. "
            "0: as many as in two seconds."
        ),
    ] = 0
    rooms_per_member: Annotated[
        CountOrNone, LIVE, Meta(description="How many rooms one member may be in. 0: no limit.")
    ] = 1000
    tokens_per_member: Annotated[
        Count,
        LIVE,
        Meta(
            description="How many valid tokens one member may have. Beyond that, the one that expires first is deleted."
        ),
    ] = 100
    devices_per_member: Annotated[
        Count,
        LIVE,
        Meta(description="How many devices of one member keep their cursors. The most recently active ones stay."),
    ] = 32
    device_days: Annotated[
        int,
        LIVE,
        Meta(ge=1, le=36500, description="A device that has received nothing for this many days is forgotten."),
    ] = 90
    json_depth: Annotated[int, LIVE, Meta(ge=4, le=200, description="How deeply JSON from a client may be nested.")] = (
        32
    )
    history_page: Annotated[
        int, LIVE, Meta(ge=1, le=1000, description="Maximum number of messages in one answer to a history request.")
    ] = 100
    signals_room: Annotated[
        int,
        LIVE,
        Meta(
            ge=0,
            le=10_000_000,
            description="In rooms with more connections than this, presence, typing and read marks of other members "
            "are not sent. 0: no limit.",
        ),
    ] = 256
