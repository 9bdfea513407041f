"""Tokens: who may connect as whom.

A token is 256 random bits. Only its SHA-256 is stored: whoever reads the store cannot connect with what they find, and
a plain hash is enough since there is nothing to guess. Tokens expire, can be revoked, and a member may have many.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from mercury.core.nodes import Nodes
from mercury.errors import MercuryError
from mercury.model import Token, check_name
from mercury.ports import IStore

LONGEST = 10 * 365 * 86400  # seconds: the longest time to live


def digest(secret: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


class Tokens:
    """Makes, checks and revokes tokens."""

    def __init__(
        self, store: IStore, nodes: Nodes, *, ttl: float, keep: int, wall: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._ttl = ttl
        self._keep = keep
        self._wall = wall

    async def make(self, member: str, ttl: float | None = None) -> tuple[str, int]:
        """A new token for a member, who comes into being, and when it expires (microseconds since 1970)."""
        check_name("member", member)
        secret = secrets.token_urlsafe(32)
        expires = int((self._wall() + min(ttl or self._ttl, LONGEST)) * 1_000_000)
        await self._store.put_token(Token(digest(secret), member, expires), self._keep)
        return secret, expires

    async def check(self, secret: str, member: str) -> Token:
        """The token, if it is this member's and has not expired; else unauthorized, without saying which was wrong."""
        token = await self.find(secret)
        if token.mid != member:
            raise _refused()
        return token

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
            self._nodes.revoke(token.mid, token.digest)
        return token is not None

    async def revoke_all(self, member: str) -> int:
        """End all tokens of a member and the connections made with them; how many tokens there were."""
        count = await self._store.drop_tokens(member)
        self._nodes.revoke(member, None)
        return count


def _refused() -> MercuryError:
    return MercuryError("unauthorized", "the token is unknown, expired, revoked or another member's")
