"""Writes what people and programs read about mercury.v2.json, from the Structs that speak it.

That is docs/asyncapi.json (AsyncAPI 3.0) and the tables of docs/protocol.md. `python -m mercury.reference` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from mercury import __version__
from mercury.domain import close_codes, commands, events
from mercury.errors import CODES
from mercury.websocket.subprotocols.v2 import NAME

CLIENT: tuple[type[msgspec.Struct], ...] = get_args(commands.Any)
SERVER: tuple[type[msgspec.Struct], ...] = get_args(events.Event)


def asyncapi() -> dict[str, Any]:
    """The protocol as an AsyncAPI 3.0 document."""
    _, schemas = msgspec.json.schema_components([*CLIENT, *SERVER], ref_template="#/components/schemas/{name}")
    names = _names()
    messages = {
        name: {
            "name": str(frame.__struct_config__.tag),
            "summary": _meaning(frame),
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{_schema_name(frame, schemas)}"},
        }
        for name, frame in names.items()
    }
    channel = {
        "address": "/ws/connect",
        "description": f"WebSocket subprotocol {NAME}; docs/protocol.md says what is sent when.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {
                    "type": "object",
                    "properties": {name: {"type": "string"} for name in ("token", "member", "device")},
                },
            }
        },
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": f"Mercury, {NAME}", "version": __version__, "license": {"name": "MIT"}},
        "defaultContentType": "application/json",
        "channels": {"chat": channel},
        "operations": {
            "fromClient": _operation("receive", [name for name, frame in names.items() if frame in CLIENT]),
            "toClient": _operation("send", [name for name, frame in names.items() if frame in SERVER]),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _operation(action: str, names: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/chat"},
        "messages": [{"$ref": f"#/channels/chat/messages/{name}"} for name in names],
    }


def _names() -> dict[str, type[msgspec.Struct]]:
    """A name for each frame: commands and events share some, such as typing."""
    return {f"{frame.__module__.rpartition('.')[2]}.{frame.__name__}": frame for frame in (*CLIENT, *SERVER)}


def _schema_name(frame: type[msgspec.Struct], schemas: dict[str, Any]) -> str:
    """The name that msgspec gave a Struct's schema: longer where two Structs have the same name."""
    full = re.sub(r"[^a-zA-Z0-9.\-_]", "_", f"{frame.__module__}.{frame.__qualname__}")
    return full if full in schemas else frame.__name__


def _meaning(frame: type[msgspec.Struct]) -> str:
    return " ".join((frame.__doc__ or "").split())


def frames(structs: Iterable[type[msgspec.Struct]]) -> str:
    """Frames as a Markdown table."""
    lines = ["| type | keys | meaning |", "|---|---|---|"]
    for frame in structs:
        fields = [field for field in msgspec.structs.fields(frame) if field.name != "ref" or frame in SERVER]
        keys = ", ".join(f"`{f.name}`" + ("" if f.required else "?") for f in fields) or "none"
        lines.append(f"| `{frame.__struct_config__.tag}` | {keys} | {_meaning(frame)} |")
    return "\n".join(lines) + "\n"


def codes() -> str:
    """Error codes as a Markdown table."""
    lines = ["| code | HTTP | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{code}` | {status} | {why} |" for code, (status, why) in CODES.items())]) + "\n"


def closes() -> str:
    """Close codes as a Markdown table."""
    lines = ["| code | why | come back? |", "|---|---|---|"]
    rows = (f"| {c.code} | {c.reason} | {'yes' if c.reconnect else 'no'} |" for c in close_codes.ALL)
    return "\n".join([*lines, *rows]) + "\n"


def tables() -> dict[str, str]:
    """The tables of docs/protocol.md, by the names of their places."""
    return {"client": frames(CLIENT), "server": frames(SERVER), "codes": codes(), "closes": closes()}
