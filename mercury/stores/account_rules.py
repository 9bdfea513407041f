"""What the stores' accounts have in common: why a call is refused, in the words of every store, and what can be an id.

A friendship of two accounts is kept once, as a pair with the smaller id first; so it is the same for both.
"""

from __future__ import annotations

from typing import Final

from mercury.errors import MercuryError

LAST: Final = 2**63 - 1  # the greatest number that a database keeps


def taken(name: str) -> MercuryError:
    return MercuryError("conflict", f"the name {name} is taken; choose another one")


def too_many_friends(id: int, most: int) -> MercuryError:
    return MercuryError(
        "too_large", f"account {id} has {most} friends, the maximum (--gotalk.friends)", limit="friends"
    )


def possible(id: int) -> int:
    """The id, or 0, which is nobody's, in place of one that a database could not take for a number."""
    return id if 0 < id <= LAST else 0


def pair_of(id: int, friend: int) -> tuple[int, int]:
    return min(id, friend), max(id, friend)
