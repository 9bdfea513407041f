"""The accounts of goTalk: registering, logging in and out, and friends.

A session is an ordinary token of the member `gotalk:<id>` (core/tokens.py), so it can also be used to connect by
WebSocket, it expires, and it can be revoked from anywhere. Nothing here ever reveals a password or a hash.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mercury.core.rate_limits import TokenBuckets
from mercury.core.tokens import Tokens
from mercury.domain.model import Account, Token
from mercury.errors import MercuryError
from mercury.gotalk.conversations import id_of, member_of
from mercury.gotalk.names import comparison_key, display_name
from mercury.gotalk.passwords import PASSWORD_BYTES, Passwords
from mercury.interfaces import IAccounts
from mercury.settings.schema import Gotalk

REMEMBERED: Final = 20_000  # ids that are known to have an account, whose names never change
STRANGERS: Final = 20_000  # names and addresses whose tries are counted

Address = bytes  # of a client, for counting its tries; empty: they are not counted


@dataclass(frozen=True)
class GotalkSession:
    """A person who is logged in: the account's id, the token, and when it was checked (clock)."""

    id: int
    token: Token
    checked: float

    @property
    def member(self) -> str:
        """The member that this person is in Mercury."""
        return self.token.mid


class Accounts:
    """The use cases. Methods raise MercuryError."""

    def __init__(
        self, clock: IReactorTime, store: IAccounts, tokens: Tokens, passwords: Passwords, settings: Gotalk
    ) -> None:
        self.passwords = passwords
        self._clock = clock
        self._store = store
        self._tokens = tokens
        self._settings = settings
        self._logins = TokenBuckets(
            clock, "logins-per-minute", "too many wrong passwords; try again in {wait:.0f} s", STRANGERS
        )
        self._registrations = TokenBuckets(
            clock, "registrations-per-minute", "too many registrations; try again in {wait:.0f} s", STRANGERS
        )
        self._names: OrderedDict[int, str] = OrderedDict()  # by id

    # Registering and logging in

    async def register(self, name: str, password: str, invite: str, address: Address) -> Account:
        """Make an account. conflict if the name is taken."""
        if self._settings.registration == "closed":
            raise MercuryError("forbidden", "registration is closed (--gotalk.registration)")
        kept = display_name(name)
        self._check_password(kept, password)
        if address:
            most = self._settings.registrations_per_minute
            self._registrations.take(address, most / 60, most)
        if self._settings.registration == "invite" and not _same(invite, self._settings.invite.value):
            raise MercuryError("forbidden", "registration needs the field invite, with your invitation code")
        key = comparison_key(kept)
        if await self._store.account(key) is not None:
            raise MercuryError("conflict", "this username is taken; choose another one")
        return await self._store.add_account(kept, key, await self.passwords.hash(password))

    def _check_password(self, name: str, password: str) -> None:
        least = self._settings.password_least
        if len(password) < least:
            raise MercuryError("bad_request", f"the password has fewer than {least} characters")
        if len(password.encode()) > PASSWORD_BYTES:
            raise MercuryError("bad_request", f"the password is longer than {PASSWORD_BYTES} bytes")
        if comparison_key(password) == comparison_key(name):
            raise MercuryError("bad_request", "the password is the username; choose another one")

    async def login(self, name: str, password: str, address: Address) -> tuple[Account, str, int]:
        """The account, a new token, and when that expires. unauthorized without saying whether the name or the password
        is wrong, and in the same time."""
        key = comparison_key(display_name(name))
        tries = [("name", key), ("address", address)] if address else [("name", key)]
        most = self._settings.logins_per_minute
        for one in tries:
            self._logins.take(one, most / 60, most)
        account = await self._store.account(key)
        secret = None
        if len(password.encode()) <= PASSWORD_BYTES:
            secret = await self.passwords.verify(account.secret if account else None, password)
        if account is None or secret is None:
            raise MercuryError("unauthorized", "the username or the password is wrong")
        for one in tries:
            self._logins.give_back(one, most / 60, most)
        if secret != account.secret:
            await self._store.change_secret(account.id, secret)
        token, expires = await self._tokens.make(member_of(account.id))
        return account, token, expires

    async def logout(self, secret: str) -> None:
        """End a session, and the connections made with its token. Harmless if there is none."""
        await self._tokens.revoke(secret)

    async def session(self, secret: str) -> GotalkSession:
        """The session of this token. unauthorized if it is not a token of an account."""
        checked = self._clock.seconds()
        token = await self._tokens.find(secret)
        id = id_of(token.mid)
        if id is None or not await self.exists(id):
            raise MercuryError("unauthorized", "this token does not belong to an account; log in")
        return GotalkSession(id, token, checked)

    # Other people

    async def exists(self, id: int) -> bool:
        """Whether there is an account with this id."""
        return await self.name_of(id) is not None

    async def name_of(self, id: int) -> str | None:
        """The account's name; None without such an account."""
        if id not in self._names:
            account = await self._store.account_of(id)
            if account is None:
                return None
            self._names[id] = account.name
            if len(self._names) > REMEMBERED:
                self._names.popitem(last=False)
        return self._names[id]

    async def check(self, id: int) -> None:
        """not_found if there is no such account."""
        await self.name(id)

    async def name(self, id: int) -> str:
        """The name of the account with this id, or not_found."""
        found = await self.name_of(id)
        if found is None:
            raise MercuryError("not_found", f"there is no user {id}")
        return found

    async def check_name(self, id: int, name: str) -> None:
        """unauthorized if this is not the name of the account with this id."""
        if comparison_key(await self.name(id)) != comparison_key(display_name(name)):
            raise MercuryError("unauthorized", f"the token is not of user {name!r}")

    async def by_name(self, name: str) -> Account:
        """The account with this name, or not_found."""
        account = await self._store.account(comparison_key(display_name(name)))
        if account is None:
            raise MercuryError("not_found", "there is no user with this name")
        return account

    async def befriend(self, id: int, friend: int) -> int:
        """Make two accounts friends; returns the friendship's number."""
        if id == friend:
            raise MercuryError("bad_request", "you cannot be your own friend; give another friendid")
        await self.check(friend)
        return await self._store.add_friend(id, friend, self._settings.friends)

    async def friends(self, id: int) -> Sequence[int]:
        """The ids of a person's friends, the oldest friendship first."""
        return await self._store.friends(id)


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on how much is right."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())
