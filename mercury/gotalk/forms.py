"""goTalk's formats: what its calls take, as a form or as JSON, and what they answer.

Field names may be in any case, and `sendTo` may stand for `sendToId`, since goTalk's document and its pages spell them
differently. Unknown fields are ignored. The old answers are kept to the letter; messages have more keys now, and errors
have Mercury's own format (http/results.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from msgspec import Struct

from mercury.domain.events import readable, rfc3339
from mercury.domain.model import Entry
from mercury.errors import MercuryError
from mercury.gotalk.contacts import Contact
from mercury.gotalk.conversations import id_of, member_of

LARGEST: Final = 2**63 - 1  # of any number in a form
FIELDS: Final = 64  # in one form
OTHER_NAMES: Final = {"sendto": "sendtoid"}

RECEIVED: Final = "message received"
NOTHING: Final = "no message"
LOGGED_OUT: Final = "logged out"
READ: Final = "read"

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")  # not \d, which takes every script's digits
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Number(str):
    """A whole number in JSON, as it was written there."""

    __slots__ = ()


class Form:
    """The fields of one request, each at most once."""

    def __init__(self, fields: Sequence[tuple[str, Any]]) -> None:
        self._fields: dict[str, Any] = {}
        if len(fields) > FIELDS:
            raise MercuryError("bad_request", f"there are more than {FIELDS} fields")
        for name, value in fields:
            folded = OTHER_NAMES.get(name.lower(), name.lower())
            if folded in self._fields:
                raise MercuryError("bad_request", f"the field {name[:40]!a} is given twice")
            self._fields[folded] = value

    def has(self, name: str) -> bool:
        """Whether the field is there at all, even empty."""
        return name.lower() in self._fields

    def text(self, name: str) -> str:
        """A field that has to be there and is a text."""
        value = self._fields.get(name.lower())
        if value is None:
            raise MercuryError("bad_request", f"the field {name} is missing")
        if type(value) is not str:
            raise MercuryError("bad_request", f"the field {name} is not a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise MercuryError("bad_request", f"the field {name} is not valid Unicode (a lone surrogate)") from None
        return value

    def text_or(self, name: str, otherwise: str) -> str:
        """A text, or something else if the field is missing or empty."""
        return (self.text(name) if self.has(name) else "") or otherwise

    def number(self, name: str) -> int:
        """A field that has to be there and is a whole number, in ASCII digits without sign or leading zeros."""
        value = self._fields.get(name.lower())
        if value is None:
            raise MercuryError("bad_request", f"the field {name} is missing")
        if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or int(value) > LARGEST:
            raise MercuryError("bad_request", f"the field {name} is not a decimal number from 0 to {LARGEST}")
        return int(value)

    def number_or(self, name: str, otherwise: int) -> int:
        """A number, or something else if the field is missing or empty."""
        return self.number(name) if self._fields.get(name.lower(), "") != "" else otherwise


def read_form(content_type: str, body: bytes) -> Form:
    """The fields of a body: JSON if its type says so, else a form (WHATWG URL, 5.1). bad_request if it is neither."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise MercuryError("bad_request", "send application/x-www-form-urlencoded or application/json")
    return Form(_from_json(body) if kind == "application/json" else _from_form(body))


def _from_form(body: bytes) -> list[tuple[str, Any]]:
    try:
        text = body.decode()
        if _LONE_PERCENT.search(text):
            raise ValueError
        return [*parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS)]
    except ValueError:
        words = f"the form is not percent-encoded UTF-8 (a lone % is %25), or has more than {FIELDS} fields"
        raise MercuryError("bad_request", words) from None


def _from_json(body: bytes) -> list[tuple[str, Any]]:
    try:
        found = json.loads(body.decode(), object_pairs_hook=list, parse_int=Number, parse_constant=_no_number)
    except (ValueError, RecursionError):  # its words would quote the body
        raise MercuryError("bad_request", "the body is not JSON in UTF-8") from None
    # An object is a list of pairs by now; a JSON array of anything would be a list, too, but never one of tuples.
    if not isinstance(found, list) or not all(isinstance(pair, tuple) for pair in found):
        raise MercuryError("bad_request", "the body is not a JSON object")
    return found


def _no_number(name: str) -> None:
    raise ValueError(name)


# Answers


class User(Struct):
    """A person. `Pwd` is there for old clients and always empty; `SessionID` is the token, after /login only."""

    Id: int
    Name: str
    Pwd: str = ""
    SessionID: str = ""


class Friendship(Struct):
    """Two friends."""

    Id: int
    UserId1: int
    UserId2: int


class DirectMessage(Struct, omit_defaults=True):
    """A message. `UserIdSend` is 0, and `From` the member's name, when no goTalk user has written it; `From` is empty
    for the application itself. `Time` is RFC 3339 in UTC."""

    Content: str
    UserIdSend: int
    UserIdReceive: int
    Id: int
    Seq: int
    Time: str
    From: str | None = None


class Person(Struct):
    """A contact. `Unread`: messages above one's own read mark. `Last`: the conversation's last `Seq`."""

    Id: int
    Name: str
    Friend: bool
    Unread: int
    Last: int


class ContactList(Struct):
    """Oneself, and one's contacts."""

    Id: int
    Name: str
    People: list[Person]


class HistoryPage(Struct):
    """A part of a conversation, oldest first. `More`: there are more messages in that direction."""

    Messages: list[DirectMessage]
    More: bool


def people(id: int, name: str, contacts: Sequence[Contact]) -> ContactList:
    """The list of a person's contacts."""
    return ContactList(id, name, [Person(one.id, one.name, one.is_friend, one.unread, one.last) for one in contacts])


def history(entries: Sequence[Entry], more: bool, reader: int, other: int) -> HistoryPage:
    """A part of the conversation of `reader` and `other`."""
    mine = member_of(reader)
    return HistoryPage([message(entry, other if entry.mid == mine else reader) for entry in entries], more)


def message(entry: Entry, reader: int) -> DirectMessage:
    """A message as `reader` gets it: they are the receiver of all that others wrote in their conversations."""
    sender = id_of(entry.mid)
    name = entry.mid if sender is None else None
    return DirectMessage(readable(entry), sender or 0, reader, entry.id, entry.seq, rfc3339(entry.ctime), name)
