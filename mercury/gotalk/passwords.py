"""Passwords, as argon2id hashes (RFC 9106), made and checked in threads of their own.

A hash takes some 40 ms and 19 MiB on purpose. Two threads make them, so that logging in takes no more than two cores
from the chat, whoever tries however often; more than WAITING that wait are refused with busy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar
from unicodedata import normalize

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mercury.errors import MercuryError

THREADS: Final = 2
WAITING: Final = 64
PASSWORD_BYTES: Final = 1024  # of a password; hashing does not get slower by length, but reading it does

#: The parameters that OWASP's Password Storage Cheat Sheet names first. After a change, hashes are made anew at logins.
TIME, MEMORY_KIB, LANES = 2, 19 * 1024, 1

T = TypeVar("T")


class Passwords:
    """Hashes and checks. `start()` it before use and `stop()` it. `in_thread`: for tests, how work is done instead."""

    def __init__(self, reactor: Any, in_thread: Callable[[Callable[[], Any]], Deferred[Any]] | None = None) -> None:
        self._hasher = PasswordHasher(time_cost=TIME, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._reactor = reactor
        self._pool = ThreadPool(0, THREADS, "passwords")
        self._in_thread = in_thread or self._in_pool
        self._running = 0
        self._nobodys = ""

    def start(self) -> None:
        """Take work. Threads begin when there is some."""
        self._pool.start()

    def stop(self) -> None:
        """Finish what runs, and take no more."""
        self._pool.stop()

    async def hash(self, password: str) -> str:
        """What is stored of a password. Raises busy."""
        return await self._do(lambda: self._hasher.hash(_prepared(password)))

    async def verify(self, secret: str | None, password: str) -> str | None:
        """Whether a password is the one that `secret` was made of: the secret, or a new one that is to replace it; None
        if it is not. Takes as long if there is no secret, since nobody has that name. Raises busy."""
        if not self._nobodys:
            self._nobodys = await self.hash("nobody")
        return await self._do(lambda: self._verify(secret, password))

    def _verify(self, secret: str | None, password: str) -> str | None:
        try:
            self._hasher.verify(secret or self._nobodys, _prepared(password))
        except (VerificationError, InvalidHashError):
            return None
        if secret is not None and self._hasher.check_needs_rehash(secret):
            return self._hasher.hash(_prepared(password))
        return secret

    async def _do(self, work: Callable[[], T]) -> T:
        if self._running >= THREADS + WAITING:
            reason = "too many people are logging in; try again in a moment"
            raise MercuryError("busy", reason, 2.0, limit="passwords")
        self._running += 1
        try:
            done: T = await self._in_thread(work)
            return done
        finally:
            self._running -= 1

    def _in_pool(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, work)


def _prepared(password: str) -> bytes:
    """The same bytes for the same characters, whichever device typed them (RFC 8265, 4.2.2: NFC)."""
    return normalize("NFC", password).encode()
