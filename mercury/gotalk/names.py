"""The names of accounts: what may be one, and which of them are the same.

A name is kept as it was written, in Unicode's form NFC (UAX #15), with single spaces. Two names are the same account if
they match without regard to case and compatibility (The Unicode Standard, 3.13, D146): `Ann`, `ANN` and `Ａnn` are one,
and so are names that differ in characters that nobody sees.
"""

from __future__ import annotations

import re
from typing import Final
from unicodedata import category, normalize

from mercury.domain.model import NAME_BYTES
from mercury.errors import MercuryError

#: Control characters, formatting, surrogates, private use, unassigned, line and paragraph separators.
REFUSED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
JOINERS: Final = "\u200c\u200d"  # Persian and Indic names and emoji are written with them

#: Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt: they have no looks of their own.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def shown(name: str) -> str:
    """The name as it is kept and shown; bad_request if it may not be one."""
    if any(category(c) in REFUSED and c not in JOINERS for c in name):
        raise MercuryError("bad_request", "the username holds a control character, or another that nobody sees")
    kept = normalize("NFC", " ".join(name.split()))
    if not key_of(kept):
        raise MercuryError("bad_request", "the username is empty")
    if max(len(kept.encode()), len(key_of(kept).encode())) > NAME_BYTES:
        raise MercuryError("bad_request", f"the username is too long; at most {NAME_BYTES} bytes are allowed")
    return kept


def key_of(name: str) -> str:
    """What a name is compared by."""
    folded = normalize("NFKC", normalize("NFKC", normalize("NFD", name)).casefold())
    return " ".join(normalize("NFC", _UNSEEN.sub("", folded).casefold()).split())
