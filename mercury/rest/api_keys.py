"""Who may call the REST API, when keys are configured: callers show one as a bearer token (RFC 6750, 2.1).

A key is 256 random bits, so a plain hash of it is enough to keep: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from mercury.errors import MercuryError
from mercury.settings.schema import Api
from mercury.settings.types import api_keys

KEY_BYTES = 32
SCHEME = b"bearer"


def new_key() -> tuple[str, str]:
    """A new key, and its hash for the configuration."""
    key = secrets.token_urlsafe(KEY_BYTES)
    return key, digest(key.encode()).hex()


def digest(key: bytes) -> bytes:
    """What is configured of a key."""
    return hashlib.sha256(key).digest()


class ApiKeys:
    """The configured keys; without any, everybody may call."""

    def __init__(self, settings: Api) -> None:
        self._settings = settings

    def check(self, authorization: bytes | None) -> None:
        """Let a caller with this Authorization header go on, or raise unauthorized. How long it takes says nothing
        about the keys."""
        hashes = api_keys(self._settings.keys)
        if not hashes:
            return
        scheme, _, key = (authorization or b"").partition(b" ")
        shown = digest(key.strip())
        fits = [hmac.compare_digest(shown, kept) for kept in hashes.values()]
        if scheme.lower() != SCHEME or not any(fits):
            reason = "send an API key as Authorization: Bearer KEY (--server.api.keys)"
            raise MercuryError("unauthorized", reason)
