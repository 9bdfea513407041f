"""What every IAccounts must do: its docstrings in mercury/interfaces.py, sentence by sentence.

A store's tests are a subclass of AccountsContract with two fixtures: `make` as for StoreContract, and `make_nodes`,
which gives stores for `nodes` of one engine, that are not open yet; one store, where an engine takes no more.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from itertools import combinations, count
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure
from zope.interface.verify import verifyClass, verifyObject

from mercury.domain.model import Account, Cursor, Handed
from mercury.errors import MercuryError
from mercury.interfaces import IAccounts
from mercury.stores import sql_upkeep
from mercury.stores.redis import store as redis
from tests.contracts.tools import (  # fmt: skip
    NOW,
    TRICKY,
    Make,
    OpenStore,
    joined,
    left,
    membership_of,
    put,
    some_time,
    unavailable_unless_open,
)

KEYS = count()
FAR = [-(2**80), -(2**63), -1, 0, 99, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 2**64 + 1, 10**400]
RUNS = [Handed("b", 3, 7, 70), Handed("a", 1, 1, 71), Handed("b", 8, 8, 72)]


async def account(store: Any, name: str = "Ann") -> int:
    """A new account's id."""
    made: Account = await store.add_account(name, f"{name} {next(KEYS)}", "hash")
    return made.id


async def refusal(call: Any) -> str:
    """The code with which a call fails."""
    with pytest.raises(MercuryError) as caught:
        await call
    return caught.value.code


async def results(calls: Sequence[Deferred[Any]]) -> list[Any]:
    """What comes of calls made at once: the code of those that are refused."""

    def code(failure: Failure) -> str:
        assert isinstance(failure.value, MercuryError), failure
        return failure.value.code

    return await gatherResults([call.addErrback(code) for call in calls])


class AccountsContract(OpenStore):
    """Tests that a store passes, or nobody can log in there."""

    @pytest_twisted.async_yield_fixture
    async def nodes(self, make_nodes: list[Any]) -> AsyncIterator[list[Any]]:
        await gatherResults([store.open() for store in make_nodes])
        try:
            yield make_nodes
        finally:
            await gatherResults([store.close() for store in make_nodes])

    def test_it_provides_the_interface_of_accounts(self, make: Make) -> None:
        store = make(0)
        assert verifyObject(IAccounts, store)
        assert verifyClass(IAccounts, type(store))

    @pytest_twisted.ensureDeferred
    async def test_calls_about_accounts_fail_with_unavailable_before_open_and_after_close(self, make: Make) -> None:
        store = make(0)
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("add_account", ("Ann", "ann", "hash")), ("account", ("ann",)), ("account_of", (2**99,)),
            ("change_secret", (2**99, "hash")), ("add_friend", (1, 2, 9)), ("friends", (2**99,)),
            ("put_handed", ("a", "d", [])), ("handed", ("a", "d")),
        ]  # fmt: skip
        assert {name for name, _ in calls} == set(IAccounts.names())
        await unavailable_unless_open(store, calls)

    @pytest_twisted.ensureDeferred
    async def test_all_of_it_is_there_after_opening_the_store_again(self, store: Any) -> None:
        ann, bob = await account(store), await account(store)
        made = await store.add_account("Cleo", "cleo", "hash")
        link = await store.add_friend(ann, bob, 9)
        await store.put_handed("a", "d", RUNS)
        await store.close()
        await store.open()
        assert await store.account("cleo") == await store.account_of(made.id) == made
        assert (await store.friends(ann), await store.friends(bob)) == ([bob], [ann])
        assert await store.add_friend(bob, ann, 9) == link
        assert await store.handed("a", "d") == RUNS
        assert await account(store) > made.id

    @pytest_twisted.ensureDeferred
    async def test_no_account_or_link_has_a_number_again_after_beginning_anew(self, store: Any) -> None:
        ann, bob = await account(store), await account(store)
        link = await store.add_friend(ann, bob, 9)
        since = time.time_ns() // 1000
        await store.begin_anew()
        made = await store.add_account("Cleo", "cleo", "hash")
        dora = await account(store)
        assert since <= made.id < dora < 2**53
        assert await store.account("cleo") == await store.account_of(made.id) == made
        assert await store.add_friend(bob, ann, 9) == link
        assert await store.add_friend(made.id, bob, 9) >= since
        assert await store.add_friend(made.id, dora, 9) > since
        assert (await store.friends(made.id), await store.friends(bob)) == ([bob, dora], [ann, made.id])

    # Accounts

    @pytest_twisted.ensureDeferred
    async def test_an_account_is_found_by_its_key_and_its_id(self, store: Any) -> None:
        assert await store.account("ann") is None
        ann = await store.add_account("Ann", "ann", "hash of Ann's")
        assert ann == Account(ann.id, "Ann", "hash of Ann's")
        bob = await store.add_account("Ann", "another key", "hash of the other's")
        assert 1 <= ann.id < bob.id
        for one, key in ((ann, "ann"), (bob, "another key")):
            assert await store.account(key) == one
            assert await store.account_of(one.id) == one
        assert await store.account("Ann") is None

    @pytest_twisted.ensureDeferred
    async def test_a_key_is_one_account_s(self, store: Any) -> None:
        first = await store.add_account("Ann", "ann", "hash")
        for secret in ("hash", "another"):
            assert await refusal(store.add_account("ANN", "ann", secret)) == "conflict"
        assert await store.account("ann") == first
        assert (await store.add_account("Bob", "bob", "hash")).id > first.id

    @pytest_twisted.ensureDeferred
    async def test_names_and_keys_may_be_any_and_are_told_apart_byte_for_byte(self, store: Any) -> None:
        names = [*TRICKY, "\U0010ffff", "\u0390" * 190, "\n", "a\0b", "a\0c", "\x7f"]
        made = [await store.add_account(name, name, f"hash {name}") for name in names]
        assert [(one.name, one.secret) for one in made] == [(name, f"hash {name}") for name in names]
        assert [await store.account(name) for name in names] == made
        assert [await store.account_of(one.id) for one in made] == made
        assert len({one.id for one in made}) == len(names)
        assert {await refusal(store.add_account("x", name, "hash")) for name in names} == {"conflict"}

    @pytest_twisted.ensureDeferred
    async def test_any_integer_may_be_asked_about(self, store: Any) -> None:
        ann = await store.add_account("Ann", "ann", "hash")
        for id in FAR:
            assert await store.account_of(id) is None
            assert await store.friends(id) == []
            await store.change_secret(id, "another hash")
        assert await store.account("ann") == ann

    @pytest_twisted.ensureDeferred
    async def test_a_secret_is_replaced(self, store: Any) -> None:
        ann, bob = await account(store), await account(store)
        for secret in ("new", "new", "newer"):
            await store.change_secret(ann, secret)
            assert await store.account_of(ann) == Account(ann, "Ann", secret)
        await store.change_secret(bob + 1, "new")
        assert await store.account_of(bob + 1) is None
        assert await store.account_of(bob) == Account(bob, "Ann", "hash")

    @pytest_twisted.ensureDeferred
    async def test_of_many_who_take_a_key_at_once_one_gets_it(self, nodes: list[Any]) -> None:
        keys = ["ann", "bob", "cleo"]
        added = await results([
            store.add_account(f"{key} {n} {m}", key, "hash")
            for n in range(4) for m, store in enumerate(nodes) for key in keys
        ])  # fmt: skip
        made = [one for one in added if isinstance(one, Account)]
        assert sorted(one.name.partition(" ")[0] for one in made) == keys
        assert len({one.id for one in made}) == len(keys)
        assert [one for one in added if one not in made] == ["conflict"] * (len(added) - len(keys))
        for store in nodes:
            for one in made:
                assert await store.account(one.name.partition(" ")[0]) == await store.account_of(one.id) == one

    @pytest_twisted.ensureDeferred
    async def test_accounts_made_at_once_have_ids_of_their_own(self, nodes: list[Any]) -> None:
        ids = await gatherResults([Deferred.fromCoroutine(account(store)) for _ in range(30) for store in nodes])
        assert len(set(ids)) == len(ids)

    # Friends

    @pytest_twisted.ensureDeferred
    async def test_friends_are_friends_both_ways_and_the_oldest_comes_first(self, store: Any) -> None:
        ids = [await account(store) for _ in range(5)]
        assert await store.friends(ids[2]) == []
        links = [await store.add_friend(ids[2], ids[n], 9) for n in (4, 0)]
        links += [await store.add_friend(ids[n], ids[2], 9) for n in (3, 1)]
        assert [await store.friends(id) for id in ids] == [
            [ids[2]], [ids[2]], [ids[4], ids[0], ids[3], ids[1]], [ids[2]], [ids[2]]
        ]  # fmt: skip
        assert len(set(links)) == 4
        again = [await store.add_friend(ids[2], ids[n], 9) for n in (1, 4)]
        again += [await store.add_friend(ids[n], ids[2], 9) for n in (0, 3)]
        assert again == [links[3], links[0], links[1], links[2]]
        assert await store.friends(ids[2]) == [ids[4], ids[0], ids[3], ids[1]]

    @pytest_twisted.ensureDeferred
    async def test_nobody_gets_more_friends_than_allowed(self, store: Any) -> None:
        ids = [await account(store) for _ in range(6)]
        popular, friends, others = ids[2], [ids[0], ids[3], ids[4]], [ids[1], ids[5]]
        links = [await store.add_friend(popular, friend, 3) for friend in friends]
        for other in others:
            assert await refusal(store.add_friend(popular, other, 3)) == "too_large"
            assert await refusal(store.add_friend(other, popular, 3)) == "too_large"
            assert await store.friends(other) == []
        assert [await store.add_friend(friend, popular, 1) for friend in friends] == links  # who is no new friend
        assert await store.add_friend(others[0], popular, 4) not in links
        assert await store.friends(popular) == [*friends, others[0]]

    @pytest_twisted.ensureDeferred
    async def test_two_who_befriend_each_other_at_once_have_one_link(self, nodes: list[Any]) -> None:
        ann, bob = await account(nodes[0]), await account(nodes[-1])
        pairs = [(ann, bob), (bob, ann)]
        links = await gatherResults([store.add_friend(*pair, 1) for _ in range(5) for pair in pairs for store in nodes])
        assert len(set(links)) == 1
        for store in nodes:
            assert (await store.friends(ann), await store.friends(bob)) == ([bob], [ann])

    @pytest_twisted.ensureDeferred
    async def test_the_bound_holds_for_both_however_many_befriend_each_other_at_once(self, nodes: list[Any]) -> None:
        ids = [await account(nodes[0]) for _ in range(8)]
        pairs = [pair for one in combinations(ids, 2) for pair in (one, one[::-1])]
        stores = [nodes[n % len(nodes)] for n in range(len(pairs))]
        done = await results([store.add_friend(*pair, 3) for store, pair in zip(stores, pairs, strict=True)])
        friends = {id: await nodes[0].friends(id) for id in ids}
        assert max(map(len, friends.values())) == 3
        assert {(id, friend) for id in ids for friend in friends[id]} == {
            pair for pair, link in zip(pairs, done, strict=True) if link != "too_large"
        }
        assert all(isinstance(link, int) for link in done if link != "too_large")

    # What was handed over

    @pytest_twisted.ensureDeferred
    async def test_what_was_handed_over_is_remembered_in_its_order_until_it_is_replaced(self, store: Any) -> None:
        assert await store.handed("a", "d") == []
        for runs in (RUNS, RUNS[::-1], RUNS[1:], [], [], RUNS[:1]):
            await store.put_handed("a", "d", runs)
            assert await store.handed("a", "d") == runs

    @pytest_twisted.ensureDeferred
    async def test_each_device_of_each_member_has_a_list_of_its_own(self, store: Any) -> None:
        lists = {
            (mid, device): [Handed(mid, 1, n, 2**52 + n)]
            for n, (mid, device) in enumerate((mid, device) for mid in TRICKY for device in TRICKY[:3])
        }
        for whose, runs in lists.items():
            await store.put_handed(*whose, runs)
        await store.put_handed("Ann", "ann", [])
        assert {whose: await store.handed(*whose) for whose in lists} == lists | {("Ann", "ann"): []}
        assert [await store.is_member(mid) for mid in TRICKY[:2]] == [False, False]

    @pytest_twisted.ensureDeferred
    async def test_a_thousand_runs_are_remembered(self, store: Any) -> None:
        runs = [Handed("\U0001f600" * 46 + f"{n:04}", n, n + 1, n + 2) for n in range(1000)]
        await store.put_handed("a", "d", runs)
        assert await store.handed("a", "d") == runs

    @pytest_twisted.ensureDeferred
    async def test_what_was_handed_over_changes_no_cursor(self, store: Any) -> None:
        await put(store, joined("b", "a"))
        await store.put_handed("a", "d", RUNS)
        assert (await membership_of(store, "a", "b", "d")).delivered is None
        await store.move_cursors([Cursor("b", "a", "d", 1)])
        assert await store.handed("a", "d") == RUNS
        await store.put_handed("a", "d", [])
        assert (await membership_of(store, "a", "b", "d")).delivered == 1
        await store.put_handed("a", "d", RUNS)
        await put(store, left("b", "a"))
        assert await store.handed("a", "d") == RUNS  # it may be of other rooms

    @pytest_twisted.ensureDeferred
    async def test_sweep_forgets_what_was_handed_over_to_idle_devices(self, store: Any) -> None:
        await put(store, joined("r", "a"))
        for device in ("gone", "back", "acked"):
            await store.put_handed("a", device, RUNS)
        await store.move_cursors([Cursor("r", "a", "gone", 1), Cursor("r", "a", "back", 1)])
        await some_time()
        between = time.time_ns() // 1000
        await some_time()
        await store.put_handed("a", "back", RUNS[1:])
        await store.move_cursors([Cursor("r", "a", "acked", 1)])
        await store.sweep(between + 1000, 1000, 9)
        devices = ("gone", "back", "acked")
        assert [await store.handed("a", device) for device in devices] == [[], RUNS[1:], RUNS]
        assert [(await membership_of(store, "a", "r", device)).delivered for device in devices] == [None, 1, 1]

    @pytest_twisted.ensureDeferred
    async def test_sweep_counts_devices_that_were_only_handed_something(self, store: Any) -> None:
        await put(store, joined("r", "a", "b"))
        await store.put_handed("b", "first", RUNS)
        for device in ("first", "second", "third", "fourth"):
            await store.put_handed("a", device, RUNS)
            await some_time()
        await store.move_cursors([Cursor("r", "a", "fifth", 1)])
        await some_time()
        await store.move_cursors([Cursor("r", "a", "second", 1)])
        await store.sweep(NOW, 2**60, 3)
        devices = ("first", "second", "third", "fourth", "fifth")
        assert [await store.handed("a", device) for device in devices] == [[], RUNS, [], RUNS, []]
        delivered = [(await membership_of(store, "a", "r", device)).delivered for device in devices]
        assert delivered == [None, 1, None, None, 1]
        assert await store.handed("b", "first") == RUNS

    @pytest_twisted.ensureDeferred
    async def test_sweep_goes_on_until_all_lists_are_dropped_however_short_its_steps_are(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module, step in ((sql_upkeep, "SWEEP_ROWS"), (redis, "CHUNK")):
            monkeypatch.setattr(module, step, 3)
        members = [f"m{n:02}" for n in range(12)]
        await put(store, joined("r", *members[4:8]))
        for device in ("old", "new"):
            await store.move_cursors([Cursor("r", mid, device, 1) for mid in members[4:8]])
            for mid in members[::2]:
                await store.put_handed(mid, device, RUNS)
            await some_time()
        await store.sweep(NOW, 2**60, 1)
        lists = {device: [await store.handed(mid, device) for mid in members] for device in ("old", "new")}
        assert lists == {"old": [[]] * 12, "new": [RUNS, []] * 6}
        places = {device: (await membership_of(store, "m05", "r", device)).delivered for device in ("old", "new")}
        assert places == {"old": None, "new": 1}
        await store.sweep(time.time_ns() // 1000, 0, 9)
        assert [await store.handed(mid, "new") for mid in members] == [[]] * 12
