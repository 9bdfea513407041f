"""What IStore.append promises, sentence by sentence."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from mercury.domain.model import SYSTEM, Cursor, Entry, Membership, Outcome, ReadMark, Room
from mercury.errors import MercuryError
from tests.contracts.tools import (
    NOW,
    TRICKY,
    Make,
    OpenStore,
    code_of,
    entry_of,
    joined,
    left,
    log_of,
    membership_of,
    message,
    opened,
    put,
)


class AppendContract(OpenStore):
    """GroupCommit: order, refusals, cids, joins and leaves, names and texts."""

    @pytest_twisted.ensureDeferred
    async def test_an_entry_is_stored_as_it_is_answered(self, store: Any) -> None:
        answers = await put(store, joined("r", "a", "b"), message("r", "a", "hi", "c1"), left("r", "b"))
        first, second, third = map(entry_of, answers)
        assert first == Entry("r", 1, first.id, "joined", NOW, members=("a", "b"))
        assert second == Entry("r", 2, second.id, "message", NOW, "a", "hi", "c1")
        assert third == Entry("r", 3, third.id, "left", NOW, members=("b",))
        assert not answers[1].duplicate
        assert await log_of(store, "r") == [first, second, third]

    @pytest_twisted.ensureDeferred
    async def test_a_batch_without_drafts_is_nothing(self, store: Any) -> None:
        assert await put(store) == []

    @pytest_twisted.ensureDeferred
    async def test_seqs_are_consecutive_in_each_room_in_the_order_of_the_batch(self, store: Any) -> None:
        await put(store, joined("r", "a"), joined("s", "a"))
        answers = await put(store, *(message("rs"[n % 3 == 0], "a", str(n)) for n in range(30)))
        for rid in "rs":
            log = await log_of(store, rid)
            assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
            assert log[1:] == [entry_of(answer) for answer in answers if entry_of(answer).rid == rid]

    @pytest_twisted.ensureDeferred
    async def test_every_id_is_new_and_above_the_rooms_older_ones(self, store: Any) -> None:
        seen: list[Entry] = []
        for n in range(5):
            answers = await put(
                store, *(joined(rid, f"m{n}") for rid in "rst"), *(message("s", SYSTEM) for _ in range(3))
            )
            seen += map(entry_of, answers)
        ids = [entry.id for entry in seen]
        assert len(set(ids)) == len(ids)
        assert all(0 < id < 2**53 for id in ids)
        for rid in "rst":
            of_room = [entry.id for entry in seen if entry.rid == rid]
            assert of_room == sorted(of_room)

    @pytest_twisted.ensureDeferred
    async def test_ids_are_not_given_again_after_their_room_was_deleted(self, store: Any) -> None:
        last = entry_of((await put(store, joined("r", "a"), left("r", "a")))[1])
        await store.delete_room("r")
        assert entry_of((await put(store, joined("s", "a")))[0]).id > last.id

    @pytest_twisted.ensureDeferred
    async def test_a_large_batch_is_stored_whole_and_in_order(self, store: Any) -> None:
        members = [f"m{n}" for n in range(700)]
        answers = await put(store, joined("r", *members), *(message("r", mid, f"by {mid}", "c") for mid in members))
        assert await log_of(store, "r") == [entry_of(answer) for answer in answers]
        assert await store.members("r", "", 1000) == sorted(members)

    @pytest_twisted.ensureDeferred
    async def test_a_refused_draft_takes_nothing_from_the_others(self, store: Any) -> None:
        answers = await put(
            store, message("no", "a"), joined("r", "a"), message("r", "x"), message("r", "a"), left("no", "a")
        )
        assert [code_of(answers[n]) for n in (0, 2, 4)] == ["not_found", "forbidden", "not_found"]
        assert [entry_of(answers[n]).seq for n in (1, 3)] == [1, 2]
        assert await store.heads(["r", "no"]) == {"r": 2}

    @pytest_twisted.ensureDeferred
    async def test_only_members_and_the_system_write(self, store: Any) -> None:
        await put(store, joined("r", "a"), joined("s", "b"))
        answers = await put(store, message("r", "b"), message("r", "a"), message("r", SYSTEM), message("no", SYSTEM))
        assert [code_of(answers[0]), code_of(answers[3])] == ["forbidden", "not_found"]
        assert [entry_of(answer).mid for answer in answers[1:3]] == ["a", SYSTEM]

    @pytest_twisted.ensureDeferred
    async def test_joins_and_leaves_earlier_in_the_batch_count(self, store: Any) -> None:
        await put(store, joined("r", "a"))
        answers = await put(
            store, message("r", "b"), joined("r", "b"), message("r", "b"), left("r", "a", "b"), message("r", "b"),
            message("r", "a"), joined("r", "a"), message("r", "a"),
        )  # fmt: skip
        assert [answer.code if isinstance(answer, MercuryError) else answer.entry.kind for answer in answers] == [
            "forbidden", "joined", "message", "left", "forbidden", "forbidden", "joined", "message",
        ]  # fmt: skip
        assert await store.members("r", "", 9) == ["a"]
        assert code_of((await put(store, message("r", "b")))[0]) == "forbidden"

    # append: cids

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("author", ["a", SYSTEM])
    async def test_a_cid_used_before_gives_the_first_outcome_again(self, store: Any, author: str) -> None:
        first = entry_of((await put(store, joined("r", "a"), message("r", author, "hi", "c")))[1])
        assert await put(store, message("r", author, "hi", "c"), ctime=NOW + 5) == [Outcome(first, duplicate=True)]
        assert (await store.heads(["r"]))["r"] == 2

    @pytest_twisted.ensureDeferred
    async def test_a_cid_used_earlier_in_the_batch_gives_the_first_outcome_again(self, store: Any) -> None:
        _, first, second, third = await put(store, joined("r", "a"), *[message("r", "a", "hi", "c")] * 3)
        assert first == Outcome(entry_of(first), duplicate=False)
        assert second == third == Outcome(entry_of(first), duplicate=True)
        assert len(await log_of(store, "r")) == 2

    @pytest_twisted.ensureDeferred
    async def test_a_cid_used_before_with_another_text_is_a_conflict(self, store: Any) -> None:
        answers = await put(store, joined("r", "a"), message("r", "a", "hi", "c"), message("r", "a", "ho", "c"))
        assert code_of(answers[2]) == "conflict"
        assert code_of((await put(store, message("r", "a", "", "c")))[0]) == "conflict"
        assert (await store.heads(["r"]))["r"] == 2

    @pytest_twisted.ensureDeferred
    async def test_a_cid_belongs_to_one_author_in_one_room(self, store: Any) -> None:
        await put(store, joined("r", "a", "A"), joined("s", "a"), message("r", "a", "1", "c"))
        answers = await put(
            store, message("r", "A", "2", "c"), message("s", "a", "3", "c"), message("r", SYSTEM, "4", "c"),
            message("r", "a", "5", "C"), message("r", "a", "6"), message("r", "a", "6"),
        )  # fmt: skip
        assert len({entry_of(answer).id for answer in answers}) == 6
        assert not any(answer.duplicate for answer in answers)

    @pytest_twisted.ensureDeferred
    async def test_a_refused_message_uses_no_cid(self, store: Any) -> None:
        await put(store, joined("r", "a"), message("r", "b", "hi", "c"))
        answers = await put(store, joined("r", "b"), message("r", "b", "another", "c"))
        assert entry_of(answers[1]).text == "another"

    @pytest_twisted.ensureDeferred
    async def test_cids_outlive_leaving_and_go_with_their_message(self, store: Any) -> None:
        first = entry_of((await put(store, joined("r", "a"), message("r", "a", "hi", "c")))[1])
        answers = await put(
            store, left("r", "a"), message("r", "a", "hi", "c"), joined("r", "a"), message("r", "a", "hi", "c")
        )
        assert code_of(answers[1]) == "forbidden"
        assert answers[3] == Outcome(first, duplicate=True)
        await put(store, left("r", "a"))
        await store.delete_room("r")
        again = (await put(store, joined("r", "a"), message("r", "a", "ho", "c")))[1]
        assert again == Outcome(entry_of(again), duplicate=False)
        assert entry_of(again).seq > first.seq

    # append: joins and leaves

    @pytest_twisted.ensureDeferred
    async def test_a_join_makes_the_room_and_the_members(self, store: Any) -> None:
        assert (await store.room("r"), await store.is_member("a")) == (None, False)
        await put(store, joined("r", "a"))
        assert await store.room("r") == Room("r", head=1, floor=0, messages=0, members=1, ctime=NOW)
        assert await store.is_member("a")

    @pytest_twisted.ensureDeferred
    async def test_a_join_of_nobody_makes_the_room_without_an_entry(self, store: Any) -> None:
        assert await put(store, joined("r")) == [Outcome(None)]
        assert await store.room("r") == Room("r", head=0, floor=0, messages=0, members=0, ctime=NOW)
        assert entry_of((await put(store, message("r", SYSTEM)))[0]).seq == 1

    @pytest_twisted.ensureDeferred
    async def test_a_join_names_those_who_were_not_in_once_and_in_order(self, store: Any) -> None:
        await put(store, joined("r", "b"))
        answers = await put(store, joined("r", "z", "b", "a", "z"), joined("r", "a", "b"), joined("r", "b", "y"))
        assert entry_of(answers[0]).members == ("z", "a")
        assert answers[1] == Outcome(None)
        assert entry_of(answers[2]).members == ("y",)
        assert (await store.heads(["r"]))["r"] == 3

    @pytest_twisted.ensureDeferred
    async def test_joining_again_does_not_touch_a_members_place(self, store: Any) -> None:
        await put(store, joined("r", "a"), message("r", "a"))
        before = await store.memberships("a", "phone")
        assert await put(store, joined("r", "a")) == [Outcome(None)]
        assert await store.memberships("a", "phone") == before

    @pytest_twisted.ensureDeferred
    async def test_a_new_member_has_read_all_before_them(self, store: Any) -> None:
        await put(store, joined("r", "a"), message("r", "a"), message("r", "a"), joined("r", "b"), message("r", "a"))
        assert await membership_of(store, "b", "r") == Membership("r", head=5, joined=4, read=4, unread=1)
        assert await membership_of(store, "a", "r") == Membership("r", head=5, joined=1, read=1, unread=3)

    @pytest_twisted.ensureDeferred
    async def test_a_member_is_in_no_more_rooms_than_allowed(self, make: Make) -> None:
        async with opened(make, 2) as store:
            await put(store, joined("r", "a"), joined("s", "a", "b"))
            answers = await put(
                store, joined("t", "b", "a"), joined("s", "a"), joined("t", "b"), left("r", "a"), joined("t", "a"),
                joined("u", "b"),
            )  # fmt: skip
            assert code_of(answers[0]) == "too_large"
            assert "a" in answers[0].reason
            assert answers[1] == Outcome(None)
            assert [entry_of(answers[n]).members for n in (2, 3, 4)] == [("b",), ("a",), ("a",)]
            assert code_of(answers[5]) == "too_large"
            assert (await store.room("u"), await store.members("t", "", 9)) == (None, ["a", "b"])
            await put(store, left("t", "a", "b"))
            await store.delete_room("t")
            assert entry_of((await put(store, joined("u", "a", "b")))[0]).members == ("a", "b")

    @pytest_twisted.ensureDeferred
    async def test_a_refused_join_is_refused_as_a_whole(self, make: Make) -> None:
        async with opened(make, 1) as store:
            assert code_of((await put(store, joined("r", "a"), joined("s", "new", "a")))[1]) == "too_large"
            assert (await store.room("s"), await store.is_member("new")) == (None, False)

    @pytest_twisted.ensureDeferred
    async def test_a_leave_names_those_who_were_in_once(self, store: Any) -> None:
        await put(store, joined("r", "a", "b", "c"))
        answers = await put(store, left("r", "c", "x", "a", "c"), left("r", "a"), left("r"))
        assert entry_of(answers[0]).members == ("c", "a")
        assert answers[1:] == [Outcome(None), Outcome(None)]
        assert await store.members("r", "", 9) == ["b"]

    @pytest_twisted.ensureDeferred
    async def test_a_leave_drops_read_mark_and_cursors_of_that_room_only(self, store: Any) -> None:
        await put(store, *(joined(rid, mid) for rid in "rs" for mid in "ab"), *[message("r", "a")] * 3)
        for rid in "rs":
            await store.move_cursors([Cursor(rid, mid, "phone", 2) for mid in "ab"])
        await store.move_reads([ReadMark("r", "a", 3)])
        await put(store, left("r", "a"), joined("r", "a"))
        assert await membership_of(store, "a", "r") == Membership(
            "r", head=7, joined=7, read=7, unread=0, delivered=None
        )
        assert (await membership_of(store, "a", "s")).delivered == 2
        assert (await membership_of(store, "b", "r")).delivered == 2
        await put(store, left("r", "b"))
        assert [place.rid for place in await store.memberships("b", "phone")] == ["s"]

    # Names and texts

    @pytest_twisted.ensureDeferred
    async def test_names_and_cids_compare_byte_for_byte(self, store: Any) -> None:
        for rid in TRICKY:
            answers = await put(store, joined(rid, *TRICKY), *(message(rid, mid, mid, mid) for mid in TRICKY))
            assert entry_of(answers[0]).members == tuple(TRICKY)
            assert [entry_of(answer).text for answer in answers[1:]] == TRICKY
            assert not any(answer.duplicate for answer in answers)
        by_bytes = sorted(TRICKY, key=str.encode)
        assert [room.rid for room in await store.rooms("", 100)] == by_bytes
        assert await store.members("Ann", "", 100) == by_bytes
        assert [place.rid for place in await store.memberships("ann", "d")] == by_bytes
        assert set(await store.heads(TRICKY)) == set(TRICKY)
        assert await log_of(store, "ann ") != await log_of(store, "ann")

    @pytest_twisted.ensureDeferred
    async def test_devices_compare_byte_for_byte(self, store: Any) -> None:
        await put(store, joined("r", "a"), *[message("r", "a")] * len(TRICKY))
        await store.move_cursors([Cursor("r", "a", device, n) for n, device in enumerate(TRICKY)])
        assert [(await membership_of(store, "a", "r", device)).delivered for device in TRICKY] == list(
            range(len(TRICKY))
        )

    @pytest_twisted.ensureDeferred
    async def test_a_long_text_comes_back_whole(self, store: Any) -> None:
        text = '\0\n\U0001f600"\\' * 20_000
        await put(store, joined("r", "a"), message("r", "a", text))
        assert (await log_of(store, "r"))[1].text == text
