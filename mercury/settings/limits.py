"""The limits among the settings: the one section of mercury/settings/schema.py that is long enough for a file of
its own.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mercury.settings.types import LIVE, Count, CountOrNone, Seconds, SecondsOrNone, Section


class Limits(Section, frozen=True):
    """What one client may take, so that none harms the others."""

    frame_bytes: Annotated[
        int,
        LIVE,
        Meta(
            ge=0, le=16_777_216, description="The longest WebSocket message a client may send, in bytes. 0: no limit."
        ),
    ] = 65536
    text_bytes: Annotated[
        int,
        LIVE,
        Meta(ge=0, le=16_777_216, description="The longest text of a chat message, in bytes of UTF-8. 0: no limit."),
    ] = 16384
    body_bytes: Annotated[
        int, LIVE, Meta(ge=128, le=67_108_864, description="The longest body of a REST request, in bytes.")
    ] = 1_048_576
    request_seconds: Annotated[
        Seconds,
        LIVE,
        Meta(
            description="How long a request to REST or goTalk may take to come, from the connection's beginning or "
            "the last answer on, TLS included. The answer has to be taken in as long, and a second for each 16 KiB."
        ),
    ] = 60.0
    handshake_seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(
            description="How long a client may take to connect by WebSocket, TLS included, and as long again to log in "
            "by its first frame. 0: no limit."
        ),
    ] = 5.0
    ping_seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(description="How often a client is pinged. It is gone when it misses two in a row. 0: never pinged."),
    ] = 25.0
    drain_seconds: Annotated[
        Seconds, LIVE, Meta(description="A client that for so long takes nothing of what is sent to it is dropped.")
    ] = 60.0
    connections: Annotated[CountOrNone, LIVE, Meta(description="WebSocket connections at a time. 0: no limit.")] = (
        100_000
    )
    connections_per_address: Annotated[
        CountOrNone, LIVE, Meta(description="WebSocket connections at a time from one address. 0: no limit.")
    ] = 0
    connections_per_member: Annotated[
        CountOrNone, LIVE, Meta(description="WebSocket connections at a time of one member. 0: no limit.")
    ] = 64
    messages_per_second: Annotated[
        float, LIVE, Meta(ge=0, le=1_000_000, description="How many messages a second a member may send. 0: no limit.")
    ] = 0.0
    burst: Annotated[
        CountOrNone,
        LIVE,
        Meta(
            description="How many messages a member may send at once when there is a limit for each second. "
            "0: as many as in two seconds."
        ),
    ] = 0
    rooms_per_member: Annotated[
        CountOrNone, LIVE, Meta(description="Rooms that one member may be in. 0: no limit.")
    ] = 1000
    tokens_per_member: Annotated[
        Count, LIVE, Meta(description="Valid tokens of one member. Beyond that the one that expires first goes.")
    ] = 100
    devices_per_member: Annotated[
        Count,
        LIVE,
        Meta(description="Devices of one member whose place in the rooms is kept. The last active ones stay."),
    ] = 32
    device_days: Annotated[
        int, LIVE, Meta(ge=1, le=36500, description="A device that received nothing for so many days is forgotten.")
    ] = 90
    json_depth: Annotated[int, LIVE, Meta(ge=4, le=200, description="How deep JSON from a client may be nested.")] = 32
    history_page: Annotated[
        int, LIVE, Meta(ge=1, le=1000, description="Messages in one answer to a history request.")
    ] = 100
    signals_room: Annotated[
        int,
        LIVE,
        Meta(
            ge=0,
            le=10_000_000,
            description="Rooms with more connections than this hear nothing of others' coming, going, typing and "
            "reading. 0: no limit.",
        ),
    ] = 256
