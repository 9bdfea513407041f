"""The protocol of the first Mercury, for clients that request no subprotocol: old clients work unchanged.

A client sends {"type":1,"rid","text"} to say something, and {"type":2,"rid","msgid","offset"} to get the `offset`
messages before the message `msgid`. The server sends every message (live, missed or history, oldest first) as
{"id","mid","rid","ctime","text"}, with `seq` added, and every error as {"type":0,"code","error"}. Joins, presence and
the like did not exist then and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from mercury.domain import commands, events
from mercury.domain.model import Entry
from mercury.settings.limits import Limits
from mercury.websocket.subprotocols.codec import refused_binary, refused_depth, refused_json


class _Say(msgspec.Struct, tag_field="type", tag=1):
    rid: str
    text: str


class _History(msgspec.Struct, tag_field="type", tag=2):
    rid: str | None = None
    msgid: commands.Seq | None = None
    offset: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] = 10


class _Message(msgspec.Struct):
    id: int
    seq: int
    mid: str
    rid: str
    ctime: str
    text: str


class _Error(msgspec.Struct, tag_field="type", tag=0, omit_defaults=True):
    code: str
    error: str
    retry_after: float | None = None


class V1:
    """Decodes and encodes the first Mercury's frames."""

    name = "v1"
    acknowledges = False

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decode = msgspec.json.Decoder(_Say | _History).decode
        self._encode = msgspec.json.Encoder().encode

    def decode(self, payload: bytes, binary: bool) -> commands.Command:
        if binary:
            return refused_binary()
        brackets, most = payload.count(b"[") + payload.count(b"{"), self._limits.json_depth
        if brackets > most and (refused := refused_depth(payload, most)):
            return refused
        try:
            frame = self._decode(payload)
        except (ValueError, RecursionError) as error:
            return refused_json(payload, error)
        if isinstance(frame, _Say):
            return commands.Send(rid=frame.rid, text=frame.text)
        return commands.HistoryById(msgid=frame.msgid, rid=frame.rid, offset=frame.offset)

    def entry(self, entry: Entry) -> bytes:
        if entry.kind != "message":
            return b""
        ctime = events.rfc3339(entry.ctime)
        return self._encode(_Message(entry.id, entry.seq, entry.mid, entry.rid, ctime, events.readable(entry)))

    def event(self, event: events.Event) -> Sequence[bytes]:
        if isinstance(event, events.HistoryOk):
            return [
                self._encode(_Message(m.id, m.seq, m.mid, m.rid, m.ctime, events.readable(m))) for m in event.messages
            ]
        if isinstance(event, events.Error):
            return (self._encode(_Error(event.code, event.reason, event.retry_after)),)
        return ()
