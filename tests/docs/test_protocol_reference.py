"""docs/protocol.md and docs/asyncapi.json say what the code does, since they are made from it."""

from __future__ import annotations

import json

import msgspec

from mercury.domain import close_codes, commands
from mercury.errors import CODES
from mercury.reference import protocol
from mercury.settings.limits import Limits
from mercury.websocket.subprotocols.v2 import V2


def test_every_reference_within_the_asyncapi_file_leads_somewhere() -> None:
    document = protocol.asyncapi()

    def follow(value: object) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                at: object = document
                for part in str(value["$ref"]).removeprefix("#/").split("/"):
                    assert isinstance(at, dict)
                    at = at[part]
            for inner in value.values():
                follow(inner)
        elif isinstance(value, list):
            for inner in value:
                follow(inner)

    follow(document)


def test_every_client_frame_of_the_reference_is_decoded() -> None:
    """What the reference lists is what the codec takes: one frame of each type, with only what it must have."""
    must = {"token": "t", "member": "m", "rid": "r", "text": "x", "seq": 1}
    codec = V2(Limits())
    for frame in protocol.CLIENT:
        needed = {f.name: must[f.name] for f in msgspec.structs.fields(frame) if f.required}
        payload = json.dumps({"type": frame.__struct_config__.tag, **needed}).encode()
        assert type(codec.decode(payload, False)) is frame
    assert isinstance(codec.decode(b'{"type":"nonsense","ref":7}', False), commands.Bad)


def test_close_codes_are_an_applications_own_or_registered() -> None:
    for each in close_codes.ALL:
        assert each.code in (1001, 1012, 1013) or 4000 <= each.code <= 4999
        assert len(each.reason.encode()) <= 123  # RFC 6455, 5.5: what a close frame has room for
    assert all(400 <= status < 600 for status, _ in CODES.values())
