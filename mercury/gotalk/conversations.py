"""The names that goTalk's people and conversations have in Mercury.

The person with account 7 is the member `gotalk:7`; the conversation of 3 and 7 is the room `gotalk:3:7`, the smaller
number first. goTalk's own clients never see these names; clients of the other protocols do.
"""

from __future__ import annotations

import re
from typing import Final

PREFIX: Final = "gotalk:"

_MEMBER = re.compile(r"gotalk:([1-9][0-9]{0,18})")
_ROOM = re.compile(r"gotalk:([1-9][0-9]{0,18}):([1-9][0-9]{0,18})")


def member_of(id: int) -> str:
    """The member of an account."""
    return f"{PREFIX}{id}"


def id_of(mid: str) -> int | None:
    """The account of a member, whether it exists or not; None for other members."""
    match = _MEMBER.fullmatch(mid)
    return int(match[1]) if match else None


def room_of(one: int, other: int) -> str:
    """The room of a conversation. Both may be the same account: notes to oneself."""
    return f"{PREFIX}{min(one, other)}:{max(one, other)}"


def pair_of(rid: str) -> tuple[int, int] | None:
    """The two accounts of a conversation's room; None for other rooms."""
    match = _ROOM.fullmatch(rid)
    pair = (int(match[1]), int(match[2])) if match else None
    return pair if pair and pair[0] <= pair[1] else None
