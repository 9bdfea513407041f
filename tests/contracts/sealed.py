"""What a store with keys promises beyond what every store does: the sealing of texts, by IStore and docs/encryption.md.

A store's tests are a subclass of SealedContract, whose `make` gives stores with KEYS.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed

from mercury.domain.model import Outcome, Resealed
from mercury.stores.sealing import STEP, Keys
from tests.contracts.tools import NOW, OpenStore, code_of, entry_of, joined, left, log_of, logged, message, put

OLD, NEW, OTHER = ("old", b"o" * 32), ("new", b"n" * 32), ("old", b"x" * 32)
KEYS = Keys([OLD])

TEXTS = ["", "hello", "\0", "\ud7ff\U0010ffff\ufffe", "x" * 5000, "\"\\'%s"]


async def fill(store: Any, rid: str, count: int) -> list[str]:
    """A room with so many messages; what they say."""
    texts = [f"{rid} {n}" for n in range(count)]
    await put(store, joined(rid, "a"), *(message(rid, "a", text) for text in texts))
    return texts


async def texts_of(store: Any, rid: str) -> list[str]:
    return [entry.lost or entry.text for entry in await log_of(store, rid) if entry.kind == "message"]


async def resealed(store: Any, rid: str) -> Resealed:
    """Seal a room anew; all steps together."""
    steps: list[Resealed] = []

    def step(done: Resealed) -> Deferred[None]:
        steps.append(done)
        return succeed(None)

    await store.reseal(rid, step)
    assert all(done.looked <= STEP for done in steps)
    return Resealed(*(sum(getattr(done, name) for done in steps) for name in ("looked", "sealed", "lost")))


class SealedContract(OpenStore):
    """Tests that a store with keys passes. `store.keys` may be changed, as a restart with another file would do it."""

    @pytest_twisted.ensureDeferred
    async def test_sealed_texts_come_back_as_they_were(self, store: Any) -> None:
        answers = await put(store, joined("r", "a"), *(message("r", "a", text) for text in TEXTS))
        assert await log_of(store, "r") == [entry_of(answer) for answer in answers]
        assert (await store.history("r", None, None, 99))[0] == [entry_of(answer) for answer in answers[1:]]

    @pytest_twisted.ensureDeferred
    async def test_clear_and_sealed_texts_stand_side_by_side(self, store: Any) -> None:
        store.keys = Keys()
        await put(store, joined("r", "a"), message("r", "a", "clear", "c1"))
        store.keys = KEYS
        await put(store, message("r", "a", "sealed", "c2"))
        assert await texts_of(store, "r") == ["clear", "sealed"]
        store.keys = Keys()
        assert await texts_of(store, "r") == ["clear", "no_key"]
        assert [found.text for found in (await store.history("r", None, 0, 9))[0]] == ["clear", ""]

    @pytest_twisted.ensureDeferred
    async def test_the_first_key_seals_and_all_open(self, store: Any) -> None:
        await fill(store, "r", 2)
        store.keys = Keys([NEW, OLD])
        await put(store, message("r", "a", "by the new one"))
        assert await texts_of(store, "r") == ["r 0", "r 1", "by the new one"]
        store.keys = Keys([OLD, NEW])  # a node that was not restarted yet
        assert await texts_of(store, "r") == ["r 0", "r 1", "by the new one"]
        store.keys = KEYS
        assert await texts_of(store, "r") == ["r 0", "r 1", "no_key"]
        store.keys = Keys([NEW])
        assert await texts_of(store, "r") == ["no_key", "no_key", "by the new one"]

    @pytest_twisted.ensureDeferred
    async def test_what_cannot_be_read_is_said_of_these_messages_alone_and_logged_once(self, store: Any) -> None:
        with logged() as events:
            await fill(store, "r", 5)
            store.keys = Keys([NEW])
            await put(store, message("r", "a", "new"))
            for _ in range(3):
                assert await texts_of(store, "r") == ["no_key"] * 5 + ["new"]
                found, _ = await store.history("r", None, None, 9)
                assert [(entry.text, entry.lost) for entry in found] == [("", "no_key")] * 5 + [("new", "")]
            store.keys = Keys([NEW, OTHER])
            assert await texts_of(store, "r") == ["damaged"] * 5 + ["new"]
        assert len(events) == 2

    @pytest_twisted.ensureDeferred
    async def test_a_cid_is_known_again_whatever_key_its_message_is_sealed_with(self, store: Any) -> None:
        first = entry_of((await put(store, joined("r", "a"), message("r", "a", "hi", "c")))[1])
        for keys in (Keys([NEW, OLD]), KEYS):
            store.keys = keys
            assert await put(store, message("r", "a", "hi", "c")) == [Outcome(first, duplicate=True)]
            assert code_of((await put(store, message("r", "a", "ho", "c")))[0]) == "conflict"
        assert (await store.heads(["r"]))["r"] == 2

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("text", ["hi", ""])
    async def test_a_cid_of_a_message_that_cannot_be_read_is_a_conflict(self, store: Any, text: str) -> None:
        await put(store, joined("r", "a"), message("r", "a", text, "c"))
        store.keys = Keys([NEW])
        answers = await put(store, message("r", "a", text, "c"), message("r", "a", "next", "d"))
        assert code_of(answers[0]) == "conflict"
        assert "cannot be read" in answers[0].reason
        assert entry_of(answers[1]).seq == 3

    # reseal

    @pytest_twisted.ensureDeferred
    async def test_reseal_makes_the_old_key_superfluous(self, store: Any) -> None:
        count = 2 * STEP + 7
        texts = await fill(store, "r", count)
        await fill(store, "s", 1)
        before = await log_of(store, "r"), await store.room("r"), await store.memberships("a", "phone")
        store.keys = Keys([NEW, OLD])
        assert await resealed(store, "r") == Resealed(count, count, 0)
        assert await resealed(store, "r") == Resealed(count, 0, 0)
        assert (await log_of(store, "r"), await store.room("r"), await store.memberships("a", "phone")) == before
        store.keys = Keys([NEW])
        assert await texts_of(store, "r") == texts
        assert await texts_of(store, "s") == ["no_key"]
        assert entry_of((await put(store, message("r", "a", "next")))[0]).seq == count + 2

    @pytest_twisted.ensureDeferred
    async def test_reseal_seals_what_is_in_clear_and_leaves_what_cannot_be_read(self, store: Any) -> None:
        await put(store, joined("r", "a"), message("r", "a", "sealed", "c1"))
        store.keys = Keys()
        await put(store, message("r", "a", "clear", "c2"), joined("r", "b"))
        assert await resealed(store, "r") == Resealed()
        store.keys = Keys([NEW])
        assert await resealed(store, "r") == Resealed(2, 1, 1)
        store.keys = Keys()
        assert await texts_of(store, "r") == ["no_key"] * 2
        store.keys = Keys([NEW, OLD])
        assert await texts_of(store, "r") == ["sealed", "clear"]
        assert await resealed(store, "r") == Resealed(2, 1, 0)
        again = await put(store, message("r", "a", "sealed", "c1"), message("r", "a", "clear", "c2"))
        assert [answer.duplicate for answer in again] == [True, True]
        assert [await store.locate(entry_of(answer).id, None) for answer in again] == [("r", 2), ("r", 3)]

    @pytest_twisted.ensureDeferred
    async def test_reseal_of_a_room_that_is_not_there_or_empty_is_nothing(self, store: Any) -> None:
        assert await resealed(store, "no") == Resealed()
        await put(store, joined("r"))
        assert await resealed(store, "r") == Resealed()

    @pytest_twisted.ensureDeferred
    async def test_what_happens_between_the_steps_of_reseal_stands(self, store: Any) -> None:
        """Messages that come stay as they are; a room that goes stays gone, also if it comes again."""
        texts = await fill(store, "r", 2 * STEP)
        store.keys = Keys([NEW, OLD])
        came: list[str] = []

        async def say(done: Resealed) -> None:
            came.append(f"new {len(came)}")
            await put(store, message("r", "a", came[-1], came[-1]))

        await store.reseal("r", lambda done: Deferred.fromCoroutine(say(done)))
        assert len(came) >= 2
        assert await texts_of(store, "r") == texts + came
        store.keys = Keys([OLD, NEW])

        async def begin_again(done: Resealed) -> None:
            if await store.members("r", "", 9) == ["a"]:
                await put(store, left("r", "a"))
                await store.delete_room("r")
                await put(store, joined("r", "b"), message("r", "b", "of another room"))
                await store.sweep(NOW, 2**60, 9)

        await store.reseal("r", lambda done: Deferred.fromCoroutine(begin_again(done)))
        floor = 2 * STEP + len(came) + 2
        assert [entry.seq for entry in await log_of(store, "r")] == [floor + 1, floor + 2]
        assert await texts_of(store, "r") == ["of another room"]
        assert (await store.read("r", 0, 9)).floor == floor
