"""Random use of a store, compared with a model so small that it can be seen to be right.

The model keeps logs and marks only: who is in a room and how much is unread it finds by going through the log.
"""

from __future__ import annotations

from typing import Any

import pytest_twisted
from hypothesis import strategies as st
from twisted.internet.defer import gatherResults

from mercury.domain.model import SYSTEM, Cursor, Draft, Entry, Outcome, ReadMark
from mercury.errors import MercuryError
from tests.contracts.tools import NOW, Make, code_of, entry_of, for_all, joined, left, log_of, message, opened, put

RIDS = ["r", "R", "r "]
MIDS = ["a", "A", "á"]

rids, mids = st.sampled_from(RIDS), st.sampled_from(MIDS)
messages = st.builds(
    message, rids, st.sampled_from([*MIDS, SYSTEM]), st.sampled_from("xy"), st.sampled_from([None, "1", "2"])
)
moves = st.tuples(st.sampled_from([joined, left]), rids, st.lists(mids, max_size=3)).map(lambda m: m[0](m[1], *m[2]))
drafts = st.lists(messages | messages | moves, max_size=8)
seqs = st.integers(0, 25)
cursors = st.lists(st.builds(Cursor, rids, mids, st.just("phone"), seqs), max_size=4)
marks = st.lists(st.builds(ReadMark, rids, mids, seqs), max_size=4)
steps = st.lists(
    st.tuples(st.just("append"), drafts) | st.tuples(st.just("append"), drafts) | st.tuples(st.just("cursors"), cursors)
    | st.tuples(st.just("reads"), marks) | st.tuples(st.just("delete"), rids)
    | st.tuples(st.just("append"), rids.map(lambda rid: [left(rid, *MIDS)])),
    max_size=12,
)  # fmt: skip

cids = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
ODD_TEXTS = [("\0", None), ("a\0b", "\U0010ffff"), ("\0\0", "''"), ("\ud7ff\ue000\ufdd0\ufffe", '"\\'), ("", "")]

Mark = tuple[str, str]  # room and member


class Model:
    """What a store should hold. `heads` also knows the rooms that were deleted; `logs` has those that are there."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Entry]] = {}
        self.heads: dict[str, int] = {}
        self.floors: dict[str, int] = {}
        self.reads: dict[Mark, int] = {}
        self.delivered: dict[Mark, int] = {}

    def inside(self, rid: str) -> dict[str, int]:
        """Who is in a room, and the seq that brought them in."""
        found: dict[str, int] = {}
        for entry in self.logs[rid]:
            for mid in entry.members:
                if entry.kind == "joined":
                    found[mid] = entry.seq
                else:
                    del found[mid]
        return found

    def append(self, draft: Draft, ctime: int) -> str | Entry | None:
        """The code of the refusal, or the entry without its id, or None."""
        rid = draft.rid
        if rid not in self.logs:
            if draft.kind != "joined":
                return "not_found"
            self.logs[rid] = []
            self.floors[rid] = self.heads.setdefault(rid, 0)
        inside = self.inside(rid)
        if draft.kind == "message":
            if draft.mid != SYSTEM and draft.mid not in inside:
                return "forbidden"
            for entry in self.logs[rid]:
                if draft.cid is not None and (entry.mid, entry.cid) == (draft.mid, draft.cid):
                    return entry if entry.text == draft.text else "conflict"
            return self.add(Entry(rid, 0, 0, "message", ctime, draft.mid, draft.text, draft.cid))
        named: list[str] = []
        for mid in draft.members:
            if (mid in inside) == (draft.kind == "left") and mid not in named:
                named.append(mid)
        if not named:
            return None
        entry = self.add(Entry(rid, 0, 0, draft.kind, ctime, members=tuple(named)))
        for mid in named:
            self.delivered.pop((rid, mid), None)
            self.reads[rid, mid] = entry.seq
        return entry

    def add(self, entry: Entry) -> Entry:
        self.heads[entry.rid] += 1
        added = Entry(
            entry.rid,
            self.heads[entry.rid],
            0,
            entry.kind,
            entry.ctime,
            entry.mid,
            entry.text,
            entry.cid,
            entry.members,
        )
        self.logs[entry.rid].append(added)
        return added

    def delete(self, rid: str) -> bool | str:
        """Whether it was there, or the code of the refusal."""
        if rid not in self.logs:
            return False
        if self.inside(rid):
            return "conflict"
        del self.logs[rid]
        return True

    def move_cursor(self, cursor: Cursor) -> None:
        mark = (cursor.rid, cursor.mid)
        if cursor.rid in self.logs and cursor.mid in self.inside(cursor.rid):
            self.delivered[mark] = max(self.delivered.get(mark, 0), min(cursor.seq, self.heads[cursor.rid]))

    def move_read(self, mark: ReadMark) -> int | None:
        if mark.rid not in self.logs or mark.mid not in self.inside(mark.rid):
            return None
        seq = min(mark.seq, self.heads[mark.rid])
        if seq <= self.reads[mark.rid, mark.mid]:
            return None
        self.reads[mark.rid, mark.mid] = seq
        return seq

    def memberships(self, mid: str) -> list[tuple[str, int, int, int, int, int | None]]:
        found = []
        for rid in sorted(self.logs):
            if mid in (inside := self.inside(rid)):
                read = self.reads[rid, mid]
                unread = sum(entry.kind == "message" and entry.seq > read for entry in self.logs[rid])
                found.append((rid, self.heads[rid], inside[mid], read, unread, self.delivered.get((rid, mid))))
        return found


def without_id(entry: Entry) -> Entry:
    return Entry(entry.rid, entry.seq, 0, entry.kind, entry.ctime, entry.mid, entry.text, entry.cid, entry.members)


def seen(answer: Outcome | MercuryError) -> str | Entry | None:
    if isinstance(answer, MercuryError):
        return answer.code
    return answer.entry and without_id(answer.entry)


async def deleted(store: Any, rid: str) -> bool | str:
    try:
        answer: bool = await store.delete_room(rid)
        return answer
    except MercuryError as error:
        return error.code


async def do(store: Any, model: Model, kind: str, what: Any, now: int) -> None:
    """Do one step to both, and compare the answers."""
    if kind == "append":
        heads = dict(model.heads)
        expected = [model.append(draft, now) for draft in what]
        answers = await store.append(what, now)
        assert [seen(answer) for answer in answers] == expected
        for answer in answers:
            if isinstance(answer, Outcome) and answer.entry:
                entry = answer.entry
                assert answer.duplicate == (entry.seq <= heads.get(entry.rid, 0))
                heads[entry.rid] = max(entry.seq, heads.get(entry.rid, 0))
    elif kind == "delete":
        assert await deleted(store, what) == model.delete(what)
    elif kind == "cursors":
        for cursor in what:
            model.move_cursor(cursor)
        await store.move_cursors(what)
    else:
        assert await store.move_reads(what) == [model.move_read(mark) for mark in what]


async def compare(store: Any, model: Model) -> None:
    """All that can be read of a store is what the model says."""
    assert await store.heads(RIDS) == {rid: model.heads[rid] for rid in model.logs}
    assert [room.rid for room in await store.rooms("", 9)] == sorted(model.logs)
    for rid, log in model.logs.items():
        found = await store.read(rid, 0, 1000)
        assert [without_id(entry) for entry in found.entries] == log
        assert (found.head, found.floor) == (model.heads[rid], model.floors[rid])
        assert [entry.id for entry in found.entries] == sorted({entry.id for entry in found.entries})
        said = [entry for entry in found.entries if entry.kind == "message"]
        assert await store.history(rid, None, None, 1000) == (said, False)
        assert await store.history(rid, None, 0, 2) == (said[:2], len(said) > 2)
        assert await store.members(rid, "", 9) == sorted(model.inside(rid))
        room = await store.room(rid)
        assert (room.messages, room.members) == (len(said), len(model.inside(rid)))
    for mid in MIDS:
        places = await store.memberships(mid, "phone")
        assert [(p.rid, p.head, p.joined, p.read, p.unread, p.delivered) for p in places] == model.memberships(mid)


class RandomContract:
    """Each test makes its stores itself, one for each example."""

    @pytest_twisted.ensureDeferred
    async def test_any_use_agrees_with_the_model(self, make: Make) -> None:
        async def use(steps: list[tuple[str, Any]]) -> None:
            model = Model()
            async with opened(make) as store:
                for rid in RIDS[:2]:
                    await do(store, model, "append", [joined(rid, *MIDS[:2])], NOW)
                for number, (kind, what) in enumerate(steps, 1):
                    await do(store, model, kind, what, NOW + number)
                    await compare(store, model)

        await for_all(steps, use)

    @pytest_twisted.ensureDeferred
    async def test_batches_asked_for_at_once_are_stored_one_after_the_other(self, make: Make) -> None:
        async def use(batches: list[list[Draft]]) -> None:
            model = Model()
            async with opened(make) as store:
                await do(store, model, "append", [joined("r", *MIDS)], NOW)
                answers = await gatherResults([store.append(batch, NOW) for batch in batches])
                for batch, got in zip(batches, answers, strict=True):
                    assert [seen(answer) for answer in got] == [model.append(draft, NOW) for draft in batch]
                await compare(store, model)

        await for_all(st.lists(drafts, min_size=2, max_size=8), use)

    @pytest_twisted.ensureDeferred
    async def test_any_text_and_cid_come_back_as_they_were(self, make: Make) -> None:
        async def use(said: list[tuple[str, str | None]]) -> None:
            async with opened(make) as store:
                firsts: dict[str | None, str] = {}
                (_, *answers) = await put(
                    store, joined("r", "a"), *(message("r", "a", text, cid) for text, cid in said)
                )
                for (text, cid), answer in zip(said, answers, strict=True):
                    if cid is not None and firsts.setdefault(cid, text) != text:
                        assert code_of(answer) == "conflict"
                    else:
                        assert (entry_of(answer).text, entry_of(answer).cid) == (text, cid)
                stored = {entry.seq: entry for entry in (await log_of(store, "r"))[1:]}
                answered = [entry_of(answer) for answer in answers if isinstance(answer, Outcome)]
                assert stored == {entry.seq: entry for entry in answered}

        await for_all(st.lists(st.tuples(st.text(), st.none() | cids)), use, ODD_TEXTS)
