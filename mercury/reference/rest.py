"""The table of calls in docs/rest.md, made from mercury/rest/calls.py."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from mercury.rest.declare import Call
from mercury.rest.openapi import CALLS


def table(calls: Sequence[Call] = CALLS) -> str:
    """The calls as a Markdown table."""
    rows = ["| call | give | get | meaning |", "|---|---|---|---|"]
    for call in calls:
        places = {"in the query": call.query, "header": call.headers, "JSON": call.body}
        given = [f"{where}: {_keys(kind)}" for where, kind in places.items() if kind] or ["nothing"]
        if call.optional:
            given[-1] += ", or nothing"
        got = [f"{kind.http_status} {_keys(kind)}" for kind in call.results] or ["200"]
        words = f"{call.summary} {call.details}".strip().replace("|", r"\|")
        rows.append(f"| `{call.method} {call.path}` | {'; '.join(given)} | {' or '.join(got)} | {words} |")
    return "\n".join(rows) + "\n"


def _keys(struct: type[Struct]) -> str:
    """A Struct's keys; a `?` marks those that may be left out."""
    fields = msgspec.structs.fields(struct)
    return ", ".join(f"`{field.encode_name}`" + "?" * (not field.required) for field in fields)
