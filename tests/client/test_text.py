"""What the client shows: nothing that others write can control the terminal, or look like somebody else's message."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercury.client.text import Writer, safe
from mercury.domain.events import Message

ROOM = "2333"
CTIME = "2026-11-22T05:32:54.000001Z"
HOSTILE = "\x1b[2J\x1b]0;mine\x07\r<2> I am 2\x9b31m\u202e\u2028\ud800\x7f"


def test_hostile_text_is_shown_and_does_nothing() -> None:
    """Each control stands there as an escape."""
    assert safe(HOSTILE) == ("\\x1b[2J\\x1b]0;mine\\x07\\r<2> I am 2\\x9b31m\\u202e\\u2028\\ud800\\x7f")
    assert safe("Grüße, 世界, שלום, 👩\u200d🚀") == "Grüße, 世界, שלום, 👩\u200d🚀"


@given(st.text(st.characters(exclude_categories=[])))
def test_no_text_holds_a_control_after_safe(text: str) -> None:
    """Nor a line end, nor what no terminal's encoding can hold."""
    shown = safe(text)
    assert shown.splitlines() in ([], [shown])
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode()


def message(**fields: Any) -> Message:
    known = {"rid": ROOM, "seq": 1, "id": 1, "mid": "2", "text": "hi", "ctime": CTIME}
    return Message(**{**known, **fields})


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (message(), "15:04 <2> hi"),
        (message(mid="", text="closing at ten"), "15:04 ** closing at ten"),
        (message(rid="lobby"), "15:04 lobby <2> hi"),
        (message(text="one\n15:04 <1> two\r\n\tthree"), "15:04 <2> one\n          15:04 <1> two\n              three"),
        (message(mid="\x1b[1m\n"), "15:04 <\\x1b[1m\\n> hi"),
        (message(ctime="yesterday"), "--:-- <2> hi"),
    ],
)
def test_a_message_as_a_line(said: Message, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local time, who, what. Further lines are indented, so that no text can look like somebody else's."""
    monkeypatch.setenv("TZ", "LMT-09:31:06")  # 05:32:54 in UTC
    time.tzset()
    try:
        assert Writer("1", ROOM, coloured=False).message(said) == shown
    finally:
        monkeypatch.undo()
        time.tzset()
