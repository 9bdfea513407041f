"""Encryption of messages' texts at rest: the keys, and the form in which a sealed text is kept.

AES-256-GCM of the `cryptography` package (NIST SP 800-38D), with a nonce of 96 random bits for each text. Room and seq
are authenticated with it, so a text that was moved to another place in a store cannot be opened there. Stored is

    0xFF, version, length of the key's id, the id in ASCII, nonce (12 bytes), ciphertext and tag (16 bytes)

and no UTF-8 text begins with 0xFF, so that sealed texts and clear ones stand side by side in one store.

An Entry whose text is sealed still counts as one whose text is lost: `lost` is "no_key", and the sealed form, in
base64 mostly, stands in place of the text. Keys.opened() makes of it what a reader is told.
"""

from __future__ import annotations

import os
import re
import stat
from base64 import b64decode
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace
from twisted.logger import Logger

from mercury.domain.model import Entry, Lost, Resealed

_log = Logger()

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
MARK: Final = b"\xff\x01"  # what a sealed text begins with: what is no UTF-8, and the version of the form
OVERHEAD: Final = 64  # bytes by which a text grows at the most
ID: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
STEP: Final = 200  # messages that are sealed anew before others get their turn
TOLD: Final = 100  # keys that cannot be used are named in the log; more are not


class KeyFileError(Exception):
    """A file of keys cannot be used. One line, which names the place and shows nothing of any key."""


class Keys:
    """The keys of one store: the first one seals, all open. Without any, texts are stored in clear.

    May be used by several threads at once.
    """

    def __init__(self, keys: Sequence[tuple[str, bytes]] = ()) -> None:
        self.ids = [id for id, _ in keys]
        self._ciphers = {_header(id): AESGCM(key) for id, key in keys}
        self._told: set[tuple[str, Lost]] = set()
        self.header = next(iter(self._ciphers), b"")  # what the texts begin with that the first key has sealed

    def __bool__(self) -> bool:
        return bool(self.ids)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.ids)})"

    def seal(self, rid: str, seq: int, text: str) -> bytes:
        """The stored form of a text at its place, by the first key. KeyError if there is none."""
        nonce = os.urandom(NONCE_BYTES)
        return self.header + nonce + self._ciphers[self.header].encrypt(nonce, text.encode(), _place(rid, seq))

    def open(self, rid: str, seq: int, sealed: bytes) -> tuple[str, Lost]:
        """The text, and "" or why there is none. What cannot be opened is named in the log, each key once."""
        start = 3 + sealed[2] if len(sealed) > 2 else 0
        header, end = sealed[:start], start + NONCE_BYTES
        cipher = self._ciphers.get(header)
        if cipher is None:
            return "", self._lost(header, "no_key" if _id_of(header) else "damaged", rid, seq)
        try:
            return cipher.decrypt(sealed[start:end], sealed[end:], _place(rid, seq)).decode(), ""
        except (InvalidTag, ValueError):
            return "", self._lost(header, "damaged", rid, seq)

    def read(self, rid: str, seq: int, stored: bytes) -> tuple[str, Lost]:
        """The text in a stored form, whether that is sealed or clear, and "" or why there is none."""
        return self.open(rid, seq, stored) if is_sealed(stored) else (stored.decode(), "")

    def _lost(self, header: bytes, why: Lost, rid: str, seq: int) -> Lost:
        id = _id_of(header)
        if (id, why) not in self._told and len(self._told) < TOLD:
            self._told.add((id, why))
            _log.error(
                "the message {rid}/{seq} cannot be read: {reason}. Further messages with this key are not logged",
                rid=rid, seq=seq,
                reason=f"it is encrypted with the key {id}, which is not in --crypto.keys" if why == "no_key"
                else f"it is not what was encrypted there with the key {id or '(unreadable)'}",
            )  # fmt: skip
        return why

    # What stores do with entries

    def stored(self, entry: Entry) -> str | bytes:
        """What a database keeps as the text of a new entry: sealed if it is a message's and there are keys."""
        if not self.ids or entry.kind != "message":
            return entry.text
        return self.seal(entry.rid, entry.seq, entry.text)

    def closed(self, entry: Entry) -> Entry:
        """The entry with its text sealed, in base64, if it is a message and there are keys."""
        if not self.ids or entry.kind != "message" or entry.lost:
            return entry
        return replace(entry, text=in_base64(self.seal(entry.rid, entry.seq, entry.text)), lost="no_key")

    def opened(self, entry: Entry, sealed: bytes | None = None) -> Entry:
        """The entry with its text opened, or with the reason why it cannot be; unchanged if it is not sealed.

        `sealed`: the stored form, if it is not the entry's text in base64.
        """
        if not entry.lost:
            return entry
        if sealed is None:
            try:
                sealed = a2b_base64(entry.text)
            except ValueError:
                sealed = b""
        text, lost = self.open(entry.rid, entry.seq, sealed)
        return replace(entry, text=text, lost=lost)

    def renewed(self, rid: str, seq: int, stored: str | bytes) -> bytes | Lost:
        """What is to stand in place of a message's stored text: the text, sealed with the first key. "" if that is so
        already, or why it cannot be read."""
        if isinstance(stored, bytes) and is_sealed(stored):
            if stored.startswith(self.header):
                return ""
            text, lost = self.open(rid, seq, stored)
            return lost or self.seal(rid, seq, text)
        return self.seal(rid, seq, stored if isinstance(stored, str) else stored.decode())


#: For stores that keep texts in clear.
NO_KEYS: Final = Keys()


def form_of(entry: Entry) -> str | bytes:
    """The stored form of a text, out of an entry in which it stands in base64 if it is sealed."""
    return a2b_base64(entry.text) if entry.lost else entry.text


def in_base64(sealed: bytes) -> str:
    """A stored form as text."""
    return b2a_base64(sealed, newline=False).decode()


def renewed(keys: Keys, rid: str, texts: Iterable[tuple[int, str | bytes | None]]) -> tuple[dict[int, bytes], Resealed]:
    """For texts by their seq: what is to stand in place of those that the first key has not sealed, and the counts.
    None: of this one it is known that it has."""
    fresh: dict[int, bytes] = {}
    looked = lost = 0
    for seq, stored in texts:
        looked += 1
        new = "" if stored is None else keys.renewed(rid, seq, stored)
        if isinstance(new, bytes):
            fresh[seq] = new
        elif new:
            lost += 1
    return fresh, Resealed(looked, len(fresh), lost)


def is_sealed(stored: bytes) -> bool:
    """Whether it is a sealed text; else it is UTF-8."""
    return stored[:1] == MARK[:1]


def _header(id: str) -> bytes:
    return MARK + bytes([len(id)]) + id.encode("ascii")


def _id_of(header: bytes) -> str:
    """The key's id; empty if this is no header."""
    id = header[3:].decode("latin-1")
    return id if ID.fullmatch(id) and header == _header(id) else ""


def _place(rid: str, seq: int) -> bytes:
    """Unambiguous, since the length of all but the room's name is fixed."""
    return MARK + seq.to_bytes(8, "big") + rid.encode()


# The file


def parse_keys(text: str, name: str) -> list[tuple[str, bytes]]:
    """The keys in a file's text: `id:base64` a line, empty ones and those that begin with # apart. KeyFileError."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        id, colon, encoded = line.partition(":")
        where = f"{name}, line {number}"
        if not colon or not ID.fullmatch(id):
            raise KeyFileError(f"{where}: write id:base64, with an id of 1 to 32 letters, digits, dots, _ and -")
        try:
            key = b64decode(encoded.strip(), validate=True)
        except ValueError:
            raise KeyFileError(f"{where}: the part after the colon is not base64") from None
        if len(key) != KEY_BYTES:
            raise KeyFileError(f"{where}: the key has {len(key)} bytes; it must have {KEY_BYTES}")
        if id in keys:
            raise KeyFileError(f"{where}: this id is used in a line above; each key needs its own")
        keys[id] = key
    return list(keys.items())


def read_text(path: Path) -> str:
    """The text of a file of keys. KeyFileError if it cannot be read."""
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise KeyFileError(f"{path} is not ASCII text") from None


def read_keys(path: Path) -> Keys:
    """The keys in a file, of which there is at least one; else KeyFileError."""
    keys = parse_keys(read_text(path), str(path))
    if not keys:
        raise KeyFileError(f"{path} contains no key; make one with: mercury-keys new {path}")
    return Keys(keys)


def warnings_of(path: Path) -> list[str]:
    """What the log should be told of a file of keys, which is there."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return [f"every user can access the key file {path} (mode {mode:o}): chmod 600 {path}"] if mode & 0o007 else []
