"""How a REST call is declared, once: the signature of its handler says what it takes and what it gives.

    @call("POST", "/api/rooms/{room}/members", "not_found")
    async def join(self, room: str, body: MemberNames) -> Joined:
        \"""Put members into a room.\"""

From that come its route, the checks of its input (read() below), and its part of /openapi.json (openapi.py).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, TypeVar, get_args, get_type_hints
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import Struct

from mercury.domain.model import check_name
from mercury.errors import Code, MercuryError
from mercury.http.results import PlainText, Result
from mercury.rest.shapes import Body, Headers

Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)

#: What may go wrong in any call that reaches the store.
ALWAYS: tuple[Code, ...] = ("bad_request", "forbidden", "too_large", "internal", "unavailable")

UNLESS_OPEN: tuple[Code, ...] = ("unauthorized",)

#: Results that are not wrapped -> the type of what they hold.
MEDIA: dict[type, str] = {msgspec.Raw: "application/json", PlainText: PlainText.media}

IN_PATH = re.compile(r"{(\w+)}")
NOT_QUOTED = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!-~]")


@dataclass(frozen=True)
class Call:
    """One call. `names`: the path's parameters, each a member's or a room's name. `optional`: so is the body.

    `results`: what it may answer with, each with an HTTP status of its own; none: just {"status":"ok"}, unless there is
    `media`, the type of something in a shape of its own. `errors`: the codes that it may be refused with. `open`: no
    API key is asked for.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    details: str
    names: tuple[str, ...]
    query: type[Struct] | None
    headers: type[Headers] | None
    body: type[Body] | None
    optional: bool
    results: tuple[type[Result], ...]
    media: str | None
    errors: tuple[Code, ...]
    open: bool

    @property
    def name(self) -> str:
        """What the call is called, for programs."""
        return self.handler.__name__

    def read(
        self, names: Mapping[str, str], query: bytes, headers: Callable[[str], list[bytes]], body: bytes
    ) -> dict[str, Any]:
        """The handler's arguments from a request's parts, or bad_request. `names` are still percent-encoded."""
        given: dict[str, Any] = {}
        for what, quoted in names.items():
            given[what] = check_name(what, unquote("path", quoted.encode()))
        if self.query is not None:
            given["query"] = convert("query", read_query(query), self.query)
        if self.headers is not None:
            fields = msgspec.structs.fields(self.headers)
            found = {name: one(name, values) for field in fields if (values := headers(name := field.encode_name))}
            given["headers"] = convert("headers", found, self.headers)
        if self.body is not None:
            given["body"] = None if self.optional and not body else decode(body, self.body)
        return given


def call(method: str, path: str, *errors: Code, open: bool = False) -> Callable[[H], H]:
    """Declares an async method to be the handler of a call. `errors`: those it may answer with beside ALWAYS and,
    unless it is `open`, unauthorized."""

    def declare(handler: H) -> H:
        hints = get_type_hints(handler)
        wanted, *others = get_args(hints.get("body")) or (hints.get("body"),)
        summary, _, details = (getdoc(handler) or "").partition("\n\n")
        result = get_args(hints["return"]) or (hints["return"],)
        handler.call = Call(  # type: ignore[attr-defined]
            method=method,
            path=path,
            handler=handler,
            summary=summary,
            details=" ".join(details.split()),
            names=tuple(IN_PATH.findall(path)),
            query=hints.get("query"),
            headers=hints.get("headers"),
            body=wanted,
            optional=bool(others),
            results=tuple(kind for kind in result if issubclass(kind, Result)),
            media=MEDIA.get(result[0]),
            errors=(*ALWAYS, *errors, *(() if open else UNLESS_OPEN)),
            open=open,
        )
        return handler

    return declare


def calls_of(api: type) -> tuple[Call, ...]:
    """The calls that a class declares, in order."""
    return tuple(member.call for member in vars(api).values() if hasattr(member, "call"))


def unquote(where: str, quoted: bytes) -> str:
    """Percent-encoded UTF-8 (RFC 3986, 2.1) as text; bad_request if it is not that."""
    try:
        text = quoted.decode()
        if NOT_QUOTED.search(text):
            raise ValueError
        return unquote_to_bytes(text).decode()
    except ValueError:
        raise MercuryError("bad_request", f"the {where} is not percent-encoded UTF-8 (a lone % is %25)") from None


def read_query(query: bytes) -> dict[str, str]:
    """A query's parameters, `+` for a space. bad_request for one that is there twice."""
    unquote("query", query)
    pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise MercuryError("bad_request", "a parameter is given twice in the query")
    return found


def one(name: str, values: list[bytes]) -> str:
    """A header's only value."""
    if len(values) > 1:
        raise MercuryError("bad_request", f"the header {name} is given twice")
    return values[0].decode("latin-1")


def convert(where: str, found: dict[str, str], into: type[Struct]) -> Struct:
    """Texts as a Struct declares them, numbers as numbers; bad_request if they are not so."""
    try:
        return msgspec.convert(found, into, strict=False)
    except msgspec.ValidationError as error:
        raise MercuryError("bad_request", f"{where}: {error}") from None


def decode(body: bytes, into: type[Body]) -> Body:
    """A JSON body as a Struct declares it, else bad_request."""
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.ValidationError as error:
        raise MercuryError("bad_request", f"body: {error}") from None
    except ValueError:  # its words would quote the body
        raise MercuryError("bad_request", "body: this is not JSON in UTF-8") from None
