"""The names of accounts: which texts are allowed, and which names are the same.

A name is kept as it was written, in Unicode's form NFC (UAX #15), with single spaces. Two names are the same account if
they match without regard to case and compatibility (The Unicode Standard, 3.13, D146): `Ann`, `ANN` and `Ａnn` are one,
and so are names that differ only in invisible characters.
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

#: Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt: they are invisible.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def display_name(name: str) -> str:
    """The name as it is kept and shown; bad_request if it is not allowed."""
    if any(category(c) in REFUSED and c not in JOINERS for c in name):
        raise MercuryError("bad_request", "the username contains a control character or an invisible character")
    kept = normalize("NFC", " ".join(name.split()))
    if not comparison_key(kept):
        raise MercuryError("bad_request", "the username is empty")
    if max(len(kept.encode()), len(comparison_key(kept).encode())) > NAME_BYTES:
        raise MercuryError("bad_request", f"the username is too long; at most {NAME_BYTES} bytes are allowed")
    return kept


def comparison_key(name: str) -> str:
    """Equal for names that are the same."""
    folded = normalize("NFKC", normalize("NFKC", normalize("NFD", name)).casefold())
    return " ".join(normalize("NFC", _INVISIBLE.sub("", folded).casefold()).split())
