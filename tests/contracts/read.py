"""What IStore promises of reading a log, of rooms and members, and of marks, sentence by sentence."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from mercury.domain.model import SYSTEM, Cursor, Membership, ReadMark, Room, Slice, Token
from mercury.errors import MercuryError
from tests.contracts.tools import NOW, OpenStore, code_of, entry_of, joined, left, log_of, membership_of, message, put


class ReadContract(OpenStore):
    """What can be seen of a log, of rooms and members, and how marks move."""

    # The log

    @pytest_twisted.ensureDeferred
    async def test_read_gives_what_follows_in_order(self, store: Any) -> None:
        entries = [entry_of(answer) for answer in await put(store, joined("r", "a"), *[message("r", "a")] * 9)]
        assert await store.read("r", 0, 4) == Slice(entries[:4], head=10, floor=0)
        assert await store.read("r", 4, 100) == Slice(entries[4:], head=10, floor=0)
        assert await store.read("r", 10, 4) == Slice([], head=10, floor=0)
        assert await store.read("r", 99, 4) == Slice([], head=10, floor=0)

    @pytest_twisted.ensureDeferred
    async def test_an_unknown_room_reads_as_an_empty_one(self, store: Any) -> None:
        assert await store.read("no", 0, 10) == Slice([], head=0, floor=0)
        assert await store.history("no", None, None, 10) == ([], False)
        assert await store.locate(1, "no") == ("no", 1)
        assert await store.members("no", "", 10) == []

    @pytest_twisted.ensureDeferred
    async def test_history_has_messages_only_and_knows_whether_there_are_more(self, store: Any) -> None:
        drafts = [joined("r", "a")]
        for n in range(5):
            drafts += [message("r", "a", str(n)), joined("r", f"m{n}")]  # messages have the seqs 2, 4, 6, 8, 10
        await put(store, *drafts, joined("s", "a"), message("s", "a"))

        async def page(before: int | None, after: int | None, limit: int) -> tuple[list[int], bool]:
            found, more = await store.history("r", before, after, limit)
            assert all(entry.kind == "message" and entry.rid == "r" for entry in found)
            return [entry.seq for entry in found], more

        assert await page(None, None, 3) == ([6, 8, 10], True)
        assert await page(None, None, 5) == ([2, 4, 6, 8, 10], False)
        assert await page(6, None, 3) == ([2, 4], False)
        assert await page(7, None, 2) == ([4, 6], True)
        assert await page(2, None, 3) == ([], False)
        assert await page(99, None, 1) == ([10], True)
        assert await page(None, 0, 2) == ([2, 4], True)
        assert await page(None, 2, 9) == ([4, 6, 8, 10], False)
        assert await page(None, 5, 2) == ([6, 8], True)
        assert await page(None, 10, 2) == ([], False)
        assert await page(8, 2, 9) == ([4, 6], False)
        assert await page(10, 2, 2) == ([4, 6], True)
        assert await page(8, 2, 2) == ([4, 6], False)
        assert await page(4, 2, 9) == ([], False)
        assert await page(2, 8, 9) == ([], False)

    @pytest_twisted.ensureDeferred
    async def test_locate_finds_the_seq_of_an_id(self, store: Any) -> None:
        drafts = [joined("r", "a"), joined("s", "a"), joined("empty")]
        answers = await put(store, *drafts, *(message("rs"[n % 2], "a") for n in range(20)))
        entries = [answer.entry for answer in answers if answer.entry]
        for entry in entries:
            assert await store.locate(entry.id, None) == ((entry.rid, entry.seq) if entry.kind == "message" else None)
            for rid in "rs":
                older = [other for other in entries if other.rid == rid and other.id < entry.id]
                assert await store.locate(entry.id, rid) == (rid, len(older) + 1)
        assert await store.locate(entries[-1].id + 1, None) is None
        assert await store.locate(2**53, "r") == ("r", 12)
        assert await store.locate(0, "r") == ("r", 1)
        assert await store.locate(0, None) is None
        assert await store.locate(1, "empty") == ("empty", 1)

    @pytest_twisted.ensureDeferred
    async def test_a_reader_never_sees_an_entry_before_those_below_it(self, store: Any) -> None:
        await put(store, joined("r", "a"), joined("s", "a"))
        appends, reads = [], []
        for n in range(30):
            appends.append(store.append([message("rs"[n % 2], "a", f"{n}-{k}") for k in range(5)], NOW))
            reads += [store.read("r", 0, 1000), store.read("s", 0, 1000)]
        for found in await gatherResults(reads):
            assert [entry.seq for entry in found.entries] == list(range(1, found.head + 1))
        stored = [entry_of(answer) for answers in await gatherResults(appends) for answer in answers]
        for rid in "rs":
            assert (await log_of(store, rid))[1:] == sorted(
                (entry for entry in stored if entry.rid == rid), key=lambda entry: entry.seq
            )

    @pytest_twisted.ensureDeferred
    async def test_appends_in_flight_at_once_make_one_message_of_one_cid(self, store: Any) -> None:
        await put(store, joined("r", "a"))
        answers = await gatherResults([store.append([message("r", "a", "hi", "c")], NOW) for _ in range(10)])
        outcomes = [answer for (answer,) in answers]
        assert len({entry_of(outcome).id for outcome in outcomes}) == 1
        assert [outcome.duplicate for outcome in outcomes].count(False) == 1
        assert (await store.heads(["r"]))["r"] == 2

    # Rooms and members

    @pytest_twisted.ensureDeferred
    async def test_heads_leaves_out_unknown_rooms(self, store: Any) -> None:
        await put(store, joined("r", "a"), joined("s", "a"), message("s", "a"))
        assert await store.heads(["s", "no", "r", "s"]) == {"r": 1, "s": 2}
        assert await store.heads([]) == {}

    @pytest_twisted.ensureDeferred
    async def test_a_room_counts_its_messages_and_members(self, store: Any) -> None:
        await put(store, joined("r", "a", "b"), message("r", "a"), message("r", "b"))
        await put(store, left("r", "b"), message("r", SYSTEM), ctime=NOW + 1)
        assert await store.room("r") == Room("r", head=5, floor=0, messages=3, members=1, ctime=NOW)
        assert await store.room("R") is None

    @pytest_twisted.ensureDeferred
    async def test_rooms_and_members_come_in_pages_by_name(self, store: Any) -> None:
        names = ["d", "b", "a", "c"]
        await put(store, *(joined(rid, *names) for rid in names))
        assert [room.rid for room in await store.rooms("", 3)] == ["a", "b", "c"]
        assert await store.rooms("b", 9) == [await store.room("c"), await store.room("d")]
        assert await store.rooms("d", 9) == []
        assert await store.members("a", "", 3) == ["a", "b", "c"]
        assert await store.members("a", "aa", 2) == ["b", "c"]

    @pytest_twisted.ensureDeferred
    async def test_delete_room_removes_all_of_it(self, store: Any) -> None:
        answers = await put(
            store, joined("r", "a", "b"), message("r", "a", "hi", "c"), joined("s", "a"), message("s", "a")
        )
        await store.move_cursors([Cursor("r", "a", "phone", 2), Cursor("s", "a", "phone", 1)])
        await put(store, left("r", "a", "b"))
        assert await store.delete_room("r") is True
        assert await store.delete_room("r") is False
        assert await store.delete_room("no") is False
        assert (await store.room("r"), await store.heads(["r"])) == (None, {})
        assert [room.rid for room in await store.rooms("", 9)] == ["s"]
        assert await store.read("r", 0, 9) == Slice([], head=0, floor=0)
        assert await store.history("r", None, None, 9) == ([], False)
        assert await store.locate(entry_of(answers[1]).id, None) is None
        assert await store.locate(1, "r") == ("r", 1)
        assert (await store.members("r", "", 9), await store.memberships("b", "phone")) == ([], [])
        assert [place.rid for place in await store.memberships("a", "phone")] == ["s"]
        assert (await membership_of(store, "a", "s")).delivered == 1
        answers = await put(store, message("r", "a"), message("r", SYSTEM), left("r", "a"))
        assert [code_of(answer) for answer in answers] == ["not_found"] * 3
        assert await store.is_member("b")

    @pytest_twisted.ensureDeferred
    async def test_a_room_is_not_deleted_while_somebody_is_in(self, store: Any) -> None:
        await put(store, joined("r", "a", "b"), message("r", "a"), left("r", "a"))
        await store.move_cursors([Cursor("r", "b", "phone", 2)])
        log = await log_of(store, "r")
        with pytest.raises(MercuryError, match=r"conflict: room r still has members; remove them"):
            await store.delete_room("r")
        assert await log_of(store, "r") == log
        assert await membership_of(store, "b", "r") == Membership("r", head=3, joined=1, read=1, unread=1, delivered=2)
        await put(store, left("r", "b"))
        assert await store.delete_room("r") is True

    @pytest_twisted.ensureDeferred
    async def test_of_a_join_and_a_deletion_at_once_one_comes_first(self, store: Any) -> None:
        for n in range(20):
            await put(store, joined("r", "a"), left("r", "a"))
            joining = store.append([joined("r", "b")], NOW) if n % 2 else None
            deleting = store.delete_room("r").addErrback(lambda failure: failure.value)
            (answer,), deleted = await gatherResults([joining or store.append([joined("r", "b")], NOW), deleting])
            found = await store.read("r", 0, 99)
            if deleted is True:
                assert (found.entries, found.floor) == ([entry_of(answer)], entry_of(answer).seq - 1)
            else:
                assert code_of(deleted) == "conflict"
                assert found.entries[-1] == entry_of(answer)
            assert await store.members("r", "", 9) == ["b"]
            await put(store, left("r", "b"))
            await store.delete_room("r")

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("again", [["new"], []])
    async def test_a_room_that_comes_again_goes_on_above_its_old_head(self, store: Any, again: list[str]) -> None:
        await put(store, joined("r", "a"), message("r", "a"))
        await store.move_cursors([Cursor("r", "a", "phone", 2)])
        await put(store, left("r", "a"))
        await store.delete_room("r")
        await put(store, joined("r", *again), ctime=NOW + 9)
        head = 3 + len(again)
        assert await store.room("r") == Room("r", head=head, floor=3, messages=0, members=len(again), ctime=NOW + 9)
        answers = await put(store, joined("r", "a"), message("r", "a"))
        assert [entry_of(answer).seq for answer in answers] == [head + 1, head + 2]
        assert await membership_of(store, "a", "r") == Membership(
            "r", head + 2, head + 1, head + 1, unread=1, delivered=None
        )
        found = await store.read("r", 1, 9)
        assert [entry.seq for entry in found.entries] == list(range(4, head + 3))
        assert (found.head, found.floor) == (head + 2, 3)
        assert [entry.seq for entry in (await store.read("r", 4, 9)).entries] == list(range(5, head + 3))
        assert await store.locate(1, "r") == ("r", 4)
        assert await store.locate(entry_of(answers[1]).id, "r") == ("r", head + 2)
        assert [entry.seq for entry in (await store.history("r", None, None, 9))[0]] == [head + 2]
        await put(store, left("r", "a", *again))
        await store.delete_room("r")
        await put(store, joined("r", "a"))
        assert (await store.read("r", 0, 9)).floor == head + 3

    @pytest_twisted.ensureDeferred
    async def test_a_member_comes_into_being_by_a_room_or_a_token_and_stays(self, store: Any) -> None:
        await put(store, joined("r", "a"))
        await store.put_token(Token(b"1", "b", NOW), 9)
        await put(store, left("r", "a"))
        await store.drop_tokens("b")
        assert [await store.is_member(mid) for mid in ("a", "b", "A", "c")] == [True, True, False, False]

    @pytest_twisted.ensureDeferred
    async def test_one_who_joins_and_leaves_in_one_batch_comes_into_being(self, store: Any) -> None:
        await put(store, joined("r", "a"), left("r", "a"))
        assert await store.is_member("a")
        assert await store.memberships("a", "phone") == []

    @pytest_twisted.ensureDeferred
    async def test_places_are_all_rooms_of_a_member_by_name(self, store: Any) -> None:
        await put(store, *(joined(rid, "a", "b") for rid in "zxy"), joined("w", "b"), message("x", "b"))
        await store.move_cursors(
            [Cursor("y", "a", "phone", 1), Cursor("x", "a", "laptop", 1), Cursor("x", "b", "phone", 2)]
        )
        assert await store.memberships("a", "phone") == [
            Membership("x", head=2, joined=1, read=1, unread=1, delivered=None),
            Membership("y", head=1, joined=1, read=1, unread=0, delivered=1),
            Membership("z", head=1, joined=1, read=1, unread=0, delivered=None),
        ]
        assert await store.memberships("nobody", "phone") == []

    # Marks

    @pytest_twisted.ensureDeferred
    async def test_of_many_who_ask_at_once_each_is_told_of_their_own(self, store: Any) -> None:
        """Whatever goes together on the way: names and digests that are alike, or unknown, are told apart."""
        names = ["a", "a'", 'a"', "a\0", "A", "a%", "a\\", "ä", *(f"m{n}" for n in range(150))]
        known = [name for name in names if name != "a\0"]
        await put(store, *(joined(f"of {name}", name) for name in known))
        for n, name in enumerate(known):
            await store.put_token(Token(bytes([n] * 32), name, n + 1), 10)
        await store.move_cursors([Cursor(f"of {name}", name, "phone", 1) for name in known[::2]])
        places = await gatherResults([store.memberships(name, "phone") for name in names])
        expected = {name: [(f"of {name}", 1 if name in known[::2] else None)] for name in known}
        assert [[(p.rid, p.delivered) for p in found] for found in places] == [expected.get(name, []) for name in names]
        tokens = await gatherResults([store.token(bytes([n] * 32)) for n in range(200)])
        assert [token.mid if token else None for token in tokens] == known + [None] * (200 - len(known))

    @pytest_twisted.ensureDeferred
    async def test_a_cursor_never_moves_backwards_nor_past_the_head(self, store: Any) -> None:
        await put(store, joined("r", "a"), *[message("r", "a")] * 4)
        stands = []
        for seq in (0, 3, 2, 3, 4, 99):
            await store.move_cursors([Cursor("r", "a", "phone", seq)])
            stands.append((await membership_of(store, "a", "r")).delivered)
        assert stands == [0, 3, 3, 3, 4, 5]
        await put(store, message("r", "a"))
        assert (await membership_of(store, "a", "r")).delivered == 5

    @pytest_twisted.ensureDeferred
    async def test_a_batch_of_cursors_may_name_one_more_than_once(self, store: Any) -> None:
        await put(store, joined("r", "a"), *[message("r", "a")] * 4)
        await store.move_cursors([Cursor("r", "a", "phone", seq) for seq in (2, 4, 3)])
        assert (await membership_of(store, "a", "r")).delivered == 4
        await store.move_cursors([])

    @pytest_twisted.ensureDeferred
    async def test_cursors_of_non_members_are_dropped(self, store: Any) -> None:
        await put(store, joined("r", "a", "b"), message("r", "a"), left("r", "b"))
        cursors = [Cursor(rid, mid, "phone", 2) for rid, mid in (("r", "b"), ("r", "x"), ("no", "a"), ("r", "a"))]
        await store.move_cursors(cursors)
        assert (await membership_of(store, "a", "r")).delivered == 2
        await put(store, joined("r", "b", "x"), joined("no", "a"))
        assert [(await store.memberships(mid, "phone"))[0].delivered for mid in ("b", "x", "a")] == [None] * 3

    @pytest_twisted.ensureDeferred
    async def test_a_read_mark_moves_forward_at_most_to_the_head(self, store: Any) -> None:
        await put(store, joined("r", "a"), message("r", "a"), joined("r", "b"), message("r", "a"), message("r", "a"))
        marks = [
            ReadMark("r", mid, seq)
            for mid, seq in (("a", 2), ("a", 1), ("a", 2), ("x", 2), ("a", 3), ("b", 2), ("a", 99))
        ]
        assert await store.move_reads([*marks, ReadMark("no", "a", 1)]) == [2, None, None, None, 3, None, 5, None]
        assert (await membership_of(store, "a", "r")).read == 5
        await put(store, message("r", "a"))
        assert await store.move_reads([ReadMark("r", "a", 5), ReadMark("r", "a", 6)]) == [None, 6]
        assert await store.move_reads([]) == []

    @pytest_twisted.ensureDeferred
    async def test_unread_counts_messages_above_the_mark_and_no_joins(self, store: Any) -> None:
        await put(
            store,
            joined("r", "a"),
            message("r", "a"),
            joined("r", "b"),
            message("r", "b"),
            left("r", "b"),
            message("r", "a"),
        )
        for seq, unread in ((2, 2), (3, 2), (4, 1), (5, 1), (6, 0)):
            assert await store.move_reads([ReadMark("r", "a", seq)]) == [seq]
            assert await membership_of(store, "a", "r") == Membership("r", head=6, joined=1, read=seq, unread=unread)
