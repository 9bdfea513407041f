"""What every IStore must do: its docstrings in mercury/interfaces.py, sentence by sentence.

A store's tests are a subclass of StoreContract with a `make` fixture (contract_store_tools.Make).
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from zope.interface.interface import Method
from zope.interface.verify import verifyClass, verifyObject

from mercury.domain.model import Cursor, Token
from mercury.interfaces import IStore
from tests.contracts.append import AppendContract
from tests.contracts.random_use import RandomContract
from tests.contracts.read import ReadContract
from tests.contracts.tools import (  # fmt: skip
    NOW,
    Make,
    entry_of,
    joined,
    log_of,
    membership_of,
    message,
    put,
    some_time,
    unavailable_unless_open,
)


class StoreContract(AppendContract, ReadContract, RandomContract):
    """Tests that a store passes, or is none."""

    def test_it_provides_the_interface(self, make: Make) -> None:
        store = make(0)
        assert verifyObject(IStore, store)
        assert verifyClass(IStore, type(store))

    @pytest_twisted.ensureDeferred
    async def test_each_store_has_an_epoch_of_its_own(self, make: Make) -> None:
        epochs = set()
        for store in (make(0), make(0)):
            await store.open()
            epochs.add(store.epoch)
            await store.close()
        assert len(epochs) == 2
        assert all(len(epoch) >= 16 for epoch in epochs)

    @pytest_twisted.ensureDeferred
    async def test_a_store_that_begins_anew_has_another_epoch_and_all_that_it_had(self, store: Any) -> None:
        await put(store, joined("r", "a"), message("r", "a", "hi", "c"), joined("gone"))
        await store.move_cursors([Cursor("r", "a", "phone", 2)])
        await store.put_token(Token(b"d", "a", NOW), 9)
        before = await log_of(store, "r"), await membership_of(store, "a", "r", "phone"), await store.rooms("", 9)
        epoch = store.epoch
        await store.begin_anew()
        assert store.epoch != epoch
        assert len(store.epoch) >= 16
        assert (
            await log_of(store, "r"),
            await membership_of(store, "a", "r", "phone"),
            await store.rooms("", 9),
        ) == before
        assert await store.token(b"d") == Token(b"d", "a", NOW)
        (again,) = await put(store, message("r", "a", "hi", "c"))
        assert again.duplicate

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("empty", [True, False])
    async def test_ids_after_beginning_anew_are_above_all_that_were_ever_given_out(
        self, store: Any, empty: bool
    ) -> None:
        """They go by the clock: also those are left out that were given out after an earlier such beginning."""
        if not empty:
            await put(store, joined("r", "a"), message("r", "a"))
        since = time.time_ns() // 1000
        first = await store.begin_anew()
        assert since <= first < 2**53
        there = len(await log_of(store, "r"))
        _, said, also = await put(store, joined("r", "b"), message("r", "b", "one", "c"), message("r", "b", "two"))
        entries = [entry_of(said), entry_of(also)]
        assert [entry.seq for entry in entries] == [there + 2, there + 3]
        assert first <= entries[0].id < entries[1].id
        assert (await log_of(store, "r"))[-2:] == entries
        assert await store.history("r", None, there + 1, 9) == (entries, False)
        assert await store.locate(entries[1].id, None) == ("r", there + 3)
        assert await store.locate(entries[0].id + 1, "r") == ("r", there + 3)
        assert await store.begin_anew() > entries[1].id

    @pytest_twisted.ensureDeferred
    async def test_ping_fires_while_the_store_can_be_read(self, store: Any) -> None:
        assert await store.ping() is None

    @pytest_twisted.ensureDeferred
    async def test_calls_before_open_and_after_close_fail_with_unavailable(self, make: Make) -> None:
        store = make(0)
        token = Token(b"d", "a", NOW)
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("ping", ()), ("append", ([joined("r", "a")], NOW)), ("read", ("r", 0, 1)), ("heads", (["r"],)),
            ("history", ("r", None, None, 1)), ("locate", (1, None)), ("room", ("r",)), ("rooms", ("", 1)),
            ("delete_room", ("r",)), ("members", ("r", "", 1)), ("is_member", ("a",)), ("memberships", ("a", "d")),
            ("move_cursors", ([Cursor("r", "a", "d", 1)],)), ("move_reads", ([],)), ("put_token", (token, 1)),
            ("token", (b"d",)), ("tokens", ("a",)), ("drop_token", (b"d",)), ("drop_tokens", ("a",)),
            ("sweep", (NOW, 1, 1)), ("reseal", ("r", succeed)), ("begin_anew", ()),
        ]  # fmt: skip
        methods = {name for name in IStore.names() if isinstance(IStore[name], Method)}
        assert {name for name, _ in calls} == methods - {"open", "close"}
        await unavailable_unless_open(store, calls)

    @pytest_twisted.ensureDeferred
    async def test_close_finishes_what_runs_and_may_come_twice(self, make: Make) -> None:
        store = make(0)
        await store.open()
        appends = [store.append([joined(f"r{n}", "a")], NOW) for n in range(20)]
        closing = [store.close(), store.close()]
        for answers in await gatherResults(appends):
            assert entry_of(answers[0]).seq == 1
        await gatherResults(closing)

    @pytest_twisted.ensureDeferred
    async def test_a_cancelled_call_harms_no_other(self, store: Any) -> None:
        calls: list[Deferred[Any]] = [
            store.append([joined("r", "a"), message("r", "a", str(n))], NOW) for n in range(20)
        ]
        for call in calls[::2]:
            call.addErrback(lambda failure: failure.trap(CancelledError))
            call.cancel()
        await gatherResults(calls)
        assert await store.ping() is None
        log = await log_of(store, "r")
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        assert {str(n) for n in range(1, 20, 2)} <= {entry.text for entry in log}

    # Tokens

    @pytest_twisted.ensureDeferred
    async def test_a_token_is_there_until_it_is_dropped(self, store: Any) -> None:
        token = Token(bytes(range(32)), "a", NOW)
        assert await store.token(token.digest) is None
        await store.put_token(token, 9)
        assert await store.token(token.digest) == token
        assert await store.token(token.digest[:-1]) is None
        assert await store.drop_token(token.digest) == token
        assert await store.drop_token(token.digest) is None
        assert await store.token(token.digest) is None

    @pytest_twisted.ensureDeferred
    async def test_a_new_token_is_kept_and_of_the_others_those_that_expire_last(self, store: Any) -> None:
        other = Token(b"other", "A", 1)
        await store.put_token(other, 1)
        tokens = {expires: Token(bytes([expires]) * 32, "a", expires) for expires in (5, 9, 7, 3, 8)}

        async def kept() -> set[int]:
            return {expires for expires, token in tokens.items() if await store.token(token.digest) == token}

        stands = []
        for token in tokens.values():
            await store.put_token(token, 3)
            stands.append(await kept())
        assert stands == [{5}, {5, 9}, {5, 9, 7}, {9, 7, 3}, {9, 7, 8}]
        await store.put_token(tokens[7], 3)  # again: it is not one more
        assert await kept() == {9, 7, 8}
        await store.put_token(tokens[3], 1)
        assert await kept() == {3}
        assert await store.token(b"other") == other

    @pytest_twisted.ensureDeferred
    async def test_a_digest_stands_for_one_token(self, store: Any) -> None:
        await store.put_token(Token(b"d", "a", 1), 9)
        await store.put_token(Token(b"d", "b", 2), 9)
        assert await store.token(b"d") == Token(b"d", "b", 2)
        assert (await store.drop_tokens("a"), await store.drop_tokens("b")) == (0, 1)

    @pytest_twisted.ensureDeferred
    async def test_a_members_tokens_are_all_that_are_kept_expired_or_not(self, store: Any) -> None:
        async def of(mid: str) -> dict[bytes, Token]:
            found = await store.tokens(mid)
            assert len({token.digest for token in found}) == len(found)
            return {token.digest: token for token in found}

        assert await of("ä") == {}
        tokens = [Token(bytes([n]) * 32, "ä", expires) for n, expires in enumerate([1, NOW, NOW, 2 * NOW + 1])]
        for token in [*tokens, Token(b"other", "Ä", NOW)]:
            await store.put_token(token, 9)
        assert await of("ä") == {token.digest: token for token in tokens}
        await store.put_token(Token(tokens[1].digest, "Ä", NOW), 9)  # it is another member's now
        await store.drop_token(tokens[2].digest)
        assert await of("ä") == {tokens[n].digest: tokens[n] for n in (0, 3)}
        await store.put_token(Token(b"new", "ä", NOW), 2)
        assert (await of("ä")).keys() == {b"new", tokens[3].digest}
        await store.sweep(NOW, 2**60, 9)
        assert (await of("ä")).keys() == {tokens[3].digest}
        await store.drop_tokens("ä")
        assert await of("ä") == {}

    @pytest_twisted.ensureDeferred
    async def test_drop_tokens_takes_all_of_one_member(self, store: Any) -> None:
        for n, mid in enumerate(["a", "a", "b"]):
            await store.put_token(Token(bytes([n]), mid, NOW + n), 9)
        assert await store.drop_tokens("a") == 2
        assert await store.drop_tokens("a") == 0
        assert [await store.token(bytes([n])) for n in range(3)] == [None, None, Token(b"\2", "b", NOW + 2)]

    # sweep

    @pytest_twisted.ensureDeferred
    async def test_sweep_drops_expired_tokens_only(self, store: Any) -> None:
        for expires in (NOW - 1, NOW, NOW + 1):
            await store.put_token(Token(str(expires).encode(), "a", expires), 9)
        await store.sweep(NOW, 2**60, 9)
        found = [await store.token(str(expires).encode()) is not None for expires in (NOW - 1, NOW, NOW + 1)]
        assert found == [False, False, True]

    @pytest_twisted.ensureDeferred
    async def test_sweep_keeps_the_devices_that_moved_last(self, store: Any) -> None:
        await put(store, *(joined(rid, "a", "b") for rid in "rs"))
        await store.move_cursors([Cursor("r", "b", "old", 1)])
        for device in ("old", "phone", "laptop"):
            await store.move_cursors([Cursor("r", "a", device, 1)])
            await some_time()
        await store.move_cursors([Cursor("s", "a", "old", 1)])
        await store.sweep(NOW, 2**60, 2)
        stands = {
            device: [place.delivered for place in await store.memberships("a", device)]
            for device in ("old", "phone", "laptop")
        }
        assert stands == {"old": [1, 1], "phone": [None, None], "laptop": [1, None]}
        assert (await membership_of(store, "b", "r", "old")).delivered == 1

    @pytest_twisted.ensureDeferred
    async def test_sweep_drops_devices_that_did_not_move_for_long(self, store: Any) -> None:
        await put(store, *(joined(rid, "a") for rid in "rs"))
        await store.move_cursors([Cursor("r", "a", "gone", 1), Cursor("r", "a", "back", 1)])
        await some_time()
        between = time.time_ns() // 1000
        await some_time()
        await store.move_cursors([Cursor("s", "a", "back", 1), Cursor("r", "a", "gone", 1)])
        await store.sweep(between + 1000, 1000, 9)
        assert [place.delivered for place in await store.memberships("a", "gone")] == [None, None]
        assert [place.delivered for place in await store.memberships("a", "back")] == [1, 1]
        await store.move_cursors([Cursor("r", "a", "gone", 1)])
        assert (await membership_of(store, "a", "r", "gone")).delivered == 1
