"""IAccounts in memory, except for `handed`, which is kept with the devices' cursors in store.py."""

from __future__ import annotations

from msgspec.structs import replace

from mercury.domain.model import Account
from mercury.stores.account_rules import pair_of, taken, too_many_friends
from mercury.stores.memory.calls import when_open


class MemoryAccounts:
    """The accounts of a MemoryStore."""

    is_open: bool

    def __init__(self) -> None:
        self._last_account = self._last_link = 0
        self._accounts: dict[int, Account] = {}
        self._accounts_by_key: dict[str, int] = {}
        self._links: dict[tuple[int, int], int] = {}  # pair -> the link's number
        self._friends: dict[int, list[int]] = {}

    def skip_account_ids(self, last: int) -> None:
        """Give no id up to this one to an account or a link."""
        self._last_account = max(self._last_account, last)
        self._last_link = max(self._last_link, last)

    @when_open
    def add_account(self, name: str, key: str, secret: str) -> Account:
        if key in self._accounts_by_key:
            raise taken(name)
        self._last_account += 1
        account = Account(self._last_account, name, secret)
        self._accounts[account.id] = account
        self._accounts_by_key[key] = account.id
        return account

    @when_open
    def account(self, key: str) -> Account | None:
        return self._accounts.get(self._accounts_by_key.get(key, 0))

    @when_open
    def account_of(self, id: int) -> Account | None:
        return self._accounts.get(id)

    @when_open
    def change_secret(self, id: int, secret: str) -> None:
        if id in self._accounts:
            self._accounts[id] = replace(self._accounts[id], secret=secret)

    @when_open
    def add_friend(self, id: int, friend: int, most: int) -> int:
        pair = pair_of(id, friend)
        if pair not in self._links:
            for one in pair:
                if len(self._friends.get(one, ())) >= most:
                    raise too_many_friends(one, most)
            self._last_link += 1
            self._links[pair] = self._last_link
            self._friends.setdefault(id, []).append(friend)
            self._friends.setdefault(friend, []).append(id)
        return self._links[pair]

    @when_open
    def friends(self, id: int) -> list[int]:
        return list(self._friends.get(id, ()))
