"""What all HTTP calls respond with, REST's and goTalk's: results, plain text, and errors."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

from mercury.errors import Code, MercuryError


class Result(Struct):
    """What all results have in common."""

    http_status: ClassVar[int] = 200


class PlainText(bytes):
    """A text as it stands, in place of JSON. The type is the one of Prometheus' text format."""

    media: ClassVar[str] = "text/plain; version=0.0.4; charset=utf-8"


class Parts(Result):
    """The state of the node's parts: itself, its store, and the bus that connects it to the other nodes.

    With several `workers`: the state of each (`away`: it does not answer), and of each part the worst.
    """

    node: Literal["starting", "serving", "stopping"]
    store: Literal["up", "down"]
    bus: Literal["up", "down"]
    workers: dict[str, Literal["starting", "serving", "stopping", "away"]] | UnsetType = UNSET


class NotReadyError(MercuryError):
    """The node cannot serve, and which part of it is to blame."""

    def __init__(self, why: str, parts: Parts) -> None:
        super().__init__("unavailable", why, 1.0)
        self.parts = parts


class Error(Struct, omit_defaults=True, kw_only=True, tag_field="status", tag="error"):
    """Not done: `error` says why in words, `code` for programs; `retry_after`: seconds, where trying again helps.

    `parts`: from /readyz only.
    """

    error: str
    code: Code
    retry_after: float | None = None
    parts: Parts | None = None
