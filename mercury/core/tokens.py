"""Tokens: who may connect as whom.

A token is 256 random bits; it expires, can be revoked, and a member may have many. What is stored of it is only a key
derived from it: PBKDF2-HMAC-SHA256 (RFC 2898, section 5.2), one iteration, enough since there is nothing to guess.

It is the key that a WAMP-CRA client derives from its token when the challenge holds the salt, iterations and keylen
below (WAMP specification, advanced profile, Challenge Response Authentication). So a signature can be checked without
the token. The price: what is stored is no token, and of no use over REST, in a URL or as a ticket; but whoever reads
the store can sign with it, and so log in by WAMP-CRA as long as `--wamp.authmethods` includes wampcra.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Final

from mercury.core.delivery.cluster import Cluster
from mercury.domain.model import Token, check_name
from mercury.errors import MercuryError
from mercury.interfaces import IStore
from mercury.settings.schema import Config

LONGEST: Final = 10 * 365 * 86400  # seconds: the longest time to live

#: How clients derive the key that is stored. With other values no token that was made before is valid.
SALT: Final = "mercury"
ITERATIONS: Final = 1
KEY_BYTES: Final = 32


def digest(secret: str) -> bytes:
    """What is stored of a token: the key derived from it."""
    return hashlib.pbkdf2_hmac("sha256", secret.encode(errors="surrogatepass"), SALT.encode(), ITERATIONS, KEY_BYTES)


class Tokens:
    """Makes, checks and revokes tokens."""

    def __init__(self, store: IStore, cluster: Cluster, config: Config, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = config.token
        self._limits = config.limits
        self._wall = wall

    async def make(self, member: str, ttl: float | None = None) -> tuple[str, int]:
        """A new token for a member, who comes into being, and when it expires (microseconds since 1970)."""
        check_name("member", member)
        secret = secrets.token_urlsafe(32)
        expires = int((self._wall() + min(ttl or self._settings.ttl, LONGEST)) * 1_000_000)
        await self._store.put_token(Token(digest(secret), member, expires), self._limits.tokens_per_member)
        return secret, expires

    async def check(self, secret: str, member: str) -> Token:
        """The token, if it is this member's and has not expired; else unauthorized, without saying which was wrong."""
        token = await self.find(secret)
        if token.mid != member:
            raise _refused()
        return token

    async def check_signature(self, member: str, challenge: str, signature: str) -> Token:
        """The member's unexpired token that signed this challenge; else unauthorized, without saying what was wrong.

        `member` and `signature` (base64) are as they came, whatever they are. The challenge is ours: whoever makes it
        sees to it that no other is like it and that it is answered once, since a signature fits each time it comes.
        """
        try:
            check_name("member", member)
        except MercuryError:
            raise _refused() from None
        given = signature.encode(errors="surrogatepass")
        for token in await self._store.tokens(member):
            if hmac.compare_digest(_signature(token.digest, challenge), given) and not self.expired(token):
                return token
        raise _refused()

    async def find(self, secret: str) -> Token:
        """The token, whoever's it is, if it has not expired; else unauthorized."""
        token = await self._store.token(digest(secret))
        if token is None or self.expired(token):
            raise _refused()
        return token

    def expired(self, token: Token) -> bool:
        """Whether the token's time is over."""
        return token.expires <= self._wall() * 1_000_000

    async def revoke(self, secret: str) -> bool:
        """End one token and the connections made with it. False if there was none."""
        token = await self._store.drop_token(digest(secret))
        if token is not None:
            self._cluster.revoke(token.mid, token.digest)
        return token is not None

    async def revoke_all(self, member: str) -> int:
        """End all tokens of a member and the connections made with them; how many tokens there were."""
        count = await self._store.drop_tokens(member)
        self._cluster.revoke(member, None)
        return count


def _signature(key: bytes, challenge: str) -> bytes:
    """What WAMP-CRA answers to a challenge. HMAC's key is the derived key in base64."""
    return b64encode(hmac.digest(b64encode(key), challenge.encode(), "sha256"))


def _refused() -> MercuryError:
    return MercuryError("unauthorized", "the token is unknown, expired, revoked or another member's")
