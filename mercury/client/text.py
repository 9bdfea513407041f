"""What a person reads: one event as a line of text, in which nothing that others wrote can control the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Final

from mercury.client.connection import ClientEvent, Reconnecting
from mercury.domain.events import Error, Hello, Joined, Left, Message, Reset, readable

#: Embeddings, overrides and isolates (Unicode Annex 9): they would let a text rearrange the line that it stands in.
BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
UNSAFE: Final = frozenset(
    {"Cc", "Cs", "Zl", "Zp"}
)  # controls (so all escape sequences), surrogates, separators of lines

Style = Callable[[str], str]


def safe(text: str) -> str:
    """The text as one line, tabs as spaces, each character that could do more than be seen written as an escape."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    if c == "\t":
        return "    "
    if c in BIDI_CONTROLS or unicodedata.category(c) in UNSAFE:
        return c.encode("unicode_escape").decode()
    return c


def _sgr(code: str) -> Style:
    return lambda text: f"\x1b[{code}m{text}\x1b[0m"


def _as_it_is(text: str) -> str:
    return text


class Writer:
    """Writes events as text, for `member` in `room`. `coloured`: with the escape sequences of a terminal (ECMA-48)."""

    def __init__(self, member: str, room: str, *, coloured: bool) -> None:
        self._member = member
        self._room = room
        self._dim = _sgr("90") if coloured else _as_it_is
        self._own = _sgr("1;32") if coloured else _as_it_is
        self._other = _sgr("1;36") if coloured else _as_it_is

    def message(self, message: Message) -> str:
        """`15:04 <1> text`: local time, who, what; the further lines of a text are indented as far as the first.

        The system's messages have `**` in place of a name, those of other rooms the room before it.
        """
        time = _local_time(message.ctime)
        where = "" if message.rid == self._room else safe(message.rid) + " "
        who = f"<{safe(message.mid)}>" if message.mid else "**"
        style = self._own if message.mid == self._member else self._other
        indent = " " * len(f"{time} {where}{who} ")
        text = f"\n{indent}".join(safe(line) for line in readable(message).replace("\r\n", "\n").split("\n"))
        return f"{self._dim(time)} {where}{style(who)} {text}"

    def note(self, text: str) -> str:
        """`-- text`: what is not a message."""
        return self._dim("-- " + safe(text))

    def line(self, event: ClientEvent) -> str | None:
        """An event in words; None for those that a terminal does not show."""
        match event:
            case Message():
                return self.message(event)
            case Joined(rid=rid, members=members):
                return self.note(f"{', '.join(members)} joined{self._at(rid)}")
            case Left(rid=rid, members=members):
                return self.note(f"{', '.join(members)} left{self._at(rid)}")
            case Hello():
                return self.note(f"connected as {event.member}, room {self._room}")
            case Reconnecting():
                return self.note(f"{event.reason}; reconnecting in {event.seconds:.1f} s")
            case Reset():
                return self.note(
                    f"room {event.rid} starts again from the beginning; the server no longer has the earlier messages"
                )
            case Error():
                return self.note(f"{event.code}: {event.reason}")
        return None

    def _at(self, rid: str) -> str:
        return "" if rid == self._room else f" room {rid}"


def _local_time(ctime: str) -> str:
    """RFC 3339 as hours and minutes where the reader is."""
    try:
        return datetime.fromisoformat(ctime).astimezone().strftime("%H:%M")
    except (ValueError, OverflowError):
        return "--:--"
