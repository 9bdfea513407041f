"""`mercury.v2.json`: JSON objects, one a WebSocket text frame, as docs/protocol.md has them.

The frames are the Structs of commands.py and events.py themselves; their tag is the frame's `type`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mercury.domain import commands, events
from mercury.domain.model import Entry
from mercury.settings.limits import Limits
from mercury.websocket.subprotocols.codec import refused_binary, refused_depth, refused_json

NAME = "mercury.v2.json"


class V2:
    """The codec of mercury.v2.json."""

    name = NAME
    acknowledges = True

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decode = msgspec.json.Decoder(commands.Any).decode
        self._encode = msgspec.json.Encoder().encode

    def decode(self, payload: bytes, binary: bool) -> commands.Command:
        if binary:
            return refused_binary()
        brackets, most = payload.count(b"[") + payload.count(b"{"), self._limits.json_depth
        if brackets > most and (refused := refused_depth(payload, most)):
            return refused
        try:
            command: commands.Command = self._decode(payload)
        except (ValueError, RecursionError) as error:
            return refused_json(payload, error)
        return command

    def entry(self, entry: Entry) -> bytes:
        return self._encode(events.of_entry(entry))

    def event(self, event: events.Event) -> Sequence[bytes]:
        return (self._encode(event),)
