"""The rules for accounts that every store shares: why a call is refused, and which ids are possible.

A friendship of two accounts is stored once, as a pair with the smaller id first, so that both have the same.
"""

from __future__ import annotations

from typing import Final

from mercury.errors import MercuryError

MAX_ID: Final = 2**63 - 1  # the greatest integer that a database stores


def taken(name: str) -> MercuryError:
    return MercuryError("conflict", f"the name {name} is taken; choose another one")


def too_many_friends(id: int, most: int) -> MercuryError:
    return MercuryError(
        "too_large", f"account {id} has {most} friends, the maximum (--gotalk.friends)", limit="friends"
    )


def possible(id: int) -> int:
    """The id; or 0, which no account has, in place of one that no account can have and no database could store."""
    return id if 0 < id <= MAX_ID else 0


def pair_of(id: int, friend: int) -> tuple[int, int]:
    return min(id, friend), max(id, friend)
