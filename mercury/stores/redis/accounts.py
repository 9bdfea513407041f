"""IAccounts on Redis: its calls. What they do stands in lua/accounts.lua."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import msgpack
from twisted.internet.defer import Deferred

from mercury.domain.model import Account, Handed
from mercury.stores.account_rules import pair_of, taken, too_many_friends

_id = msgpack.Decoder(int | None)
_account = msgpack.Decoder(Account | None)
_link = msgpack.Decoder(tuple[int, int])
_friends = msgpack.Decoder(list[str])
_handed = msgpack.Decoder(list[Handed])
_none = msgpack.Decoder(None)


class RedisAccounts:
    """The accounts of a RedisStore, which says how to make a call of its script."""

    _call: Callable[..., Deferred[Any]]

    def add_account(self, name: str, key: str, secret: str) -> Deferred[Account]:
        adding = self._call(_id, "add_account", name=name, key=key, secret=secret)
        return adding.addCallback(_added, name, secret)

    def account(self, key: str) -> Deferred[Account | None]:
        return self._call(_account, "account", key=key)

    def account_of(self, id: int) -> Deferred[Account | None]:
        return self._call(_account, "account_of", id=str(id))

    def change_secret(self, id: int, secret: str) -> Deferred[None]:
        return self._call(_none, "change_secret", id=str(id), secret=secret)

    def add_friend(self, id: int, friend: int, most: int) -> Deferred[int]:
        pair = [str(one) for one in pair_of(id, friend)]
        return self._call(_link, "add_friend", pair=pair, most=most).addCallback(_linked, most)

    def friends(self, id: int) -> Deferred[list[int]]:
        return self._call(_friends, "friends", id=str(id)).addCallback(lambda found: [int(friend) for friend in found])

    def put_handed(self, mid: str, device: str, handed: Sequence[Handed]) -> Deferred[None]:
        return self._call(_none, "put_handed", mid=mid, device=device, handed=handed, now=time.time_ns() // 1000)

    def handed(self, mid: str, device: str) -> Deferred[list[Handed]]:
        return self._call(_handed, "handed", mid=mid, device=device)


def _added(id: int | None, name: str, secret: str) -> Account:
    if id is None:
        raise taken(name)
    return Account(id, name, secret)


def _linked(found: tuple[int, int], most: int) -> int:
    link, full = found
    if full:
        raise too_many_friends(full, most)
    return link
