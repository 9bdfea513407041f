"""A store in this process's memory: for tests, for trying things out, and to measure what the others cost.

It lives as long as the process. There are no threads and no transactions: each call is done at once, in the reactor's
thread, so every Deferred has fired when it is returned.
"""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from heapq import nlargest
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mercury.domain.counters import Load
from mercury.domain.model import (
    Cursor,
    Draft,
    Entry,
    Handed,
    Membership,
    Outcome,
    ReadMark,
    Resealed,
    Room,
    Slice,
    Token,
)
from mercury.errors import MercuryError
from mercury.interfaces import IAccounts, IStore
from mercury.stores.append_rules import Batch, StoredRoom, occupied
from mercury.stores.memory.accounts import MemoryAccounts
from mercury.stores.memory.calls import when_open
from mercury.stores.sealing import NO_KEYS, STEP, Keys, form_of, in_base64, renewed

by_seq = attrgetter("seq")
by_id = attrgetter("id")


class RoomLog(Struct):
    """A room's entries, without holes from floor + 1 on, and those of them that are messages."""

    entries: list[Entry] = []
    messages: list[Entry] = []


class StoredDevice(Struct):
    """A device: its cursor in each room, what was handed over to it without proof, and when one of these last changed
    (microseconds)."""

    cursors: dict[str, int] = {}
    handed: list[Handed] = []
    moved: int = 0


@implementer(IStore, IAccounts)
class MemoryStore(MemoryAccounts):
    """IStore in dicts. `rooms_per_member`: how many rooms a member may be in; 0 for any number. `keys`: what texts are
    sealed with, so that a dump of the process's memory does not show them."""

    def __init__(self, rooms_per_member: int = 0, keys: Keys = NO_KEYS) -> None:
        super().__init__()
        self.keys = keys
        self.epoch = secrets.token_hex(8)
        self.load: list[Load] = []  # nothing ever waits
        self.is_open = False
        self.rooms_per_member = rooms_per_member
        self._last_id = 0
        self._rooms: dict[str, StoredRoom] = {}  # deleted ones, too: their seqs must not be used again
        self._logs: dict[str, RoomLog] = {}  # only of rooms that exist
        self._messages: dict[int, Entry] = {}
        self._members: dict[str, set[str]] = {}  # every member there ever was -> the rooms they are in
        self._devices: dict[str, dict[str, StoredDevice]] = {}
        self._tokens: dict[bytes, Token] = {}
        self._tokens_of: dict[str, dict[bytes, Token]] = {}

    def open(self) -> Deferred[None]:
        self.is_open = True
        return succeed(None)

    def close(self) -> Deferred[None]:
        self.is_open = False
        return succeed(None)

    @when_open
    def ping(self) -> None:
        pass

    @when_open
    def begin_anew(self) -> int:
        self.epoch = secrets.token_hex(8)
        self._last_id = max(self._last_id, time.time_ns() // 1000)
        self.skip_account_ids(self._last_id)
        return self._last_id + 1

    # The log

    @when_open
    def append(self, drafts: Sequence[Draft], ctime: int) -> list[Outcome | MercuryError]:
        memberships: dict[str, int] = {}
        if self.rooms_per_member:
            memberships = {mid: len(self._members.get(mid, ())) for draft in drafts for mid in draft.members}
        batch = Batch(self._rooms, self._last_id, ctime, self.rooms_per_member, memberships, self.keys.opened)
        answers = batch.decide(drafts)
        self._last_id = batch.last_id
        for rid in batch.changed:
            if rid not in self._logs:
                self._logs[rid] = RoomLog()
        for room, new, _ in batch.entries:
            entry = self.keys.closed(new)
            log = self._logs[entry.rid]
            log.entries.append(entry)
            if entry.kind == "message":
                log.messages.append(entry)
                self._messages[entry.id] = entry
                if entry.cid is not None:
                    room.firsts[entry.mid, entry.cid] = entry
        for _, mid in batch.joined:
            self._members.setdefault(mid, set())
        for room, mid in batch.left:
            self._forget_place(room.rid, mid)
        for room, mid in batch.joined:
            if mid in room.members:
                self._members[mid].add(room.rid)
        return answers

    @when_open
    def read(self, rid: str, after: int, limit: int) -> Slice:
        log = self._logs.get(rid)
        if log is None:
            return Slice([], 0, 0)
        room = self._rooms[rid]
        start = max(after - room.floor, 0)
        return Slice(self._opened(log.entries[start : start + limit]), room.head, room.floor)

    @when_open
    def history(self, rid: str, before: int | None, after: int | None, limit: int) -> tuple[list[Entry], bool]:
        log = self._logs.get(rid)
        messages = log.messages if log else []
        end = len(messages) if before is None else bisect_left(messages, before, key=by_seq)
        if after is None:
            start = max(end - limit, 0)
            return self._opened(messages[start:end]), start > 0
        start = bisect_right(messages, after, key=by_seq)
        return self._opened(messages[start : min(start + limit, end)]), start + limit < end

    def _opened(self, entries: list[Entry]) -> list[Entry]:
        return [self.keys.opened(entry) for entry in entries]

    @when_open
    def locate(self, id: int, rid: str | None) -> tuple[str, int] | None:
        if rid is None:
            message = self._messages.get(id)
            return (message.rid, message.seq) if message else None
        log = self._logs.get(rid)
        if log is None:
            return rid, 1
        return rid, self._rooms[rid].floor + bisect_left(log.entries, id, key=by_id) + 1

    def reseal(self, rid: str, step: Callable[[Resealed], Deferred[None]]) -> Deferred[None]:
        return self.room(rid).addCallback(lambda room: Deferred.fromCoroutine(self._reseal(rid, step)))

    async def _reseal(self, rid: str, step: Callable[[Resealed], Deferred[None]]) -> None:
        messages = list(self._logs[rid].messages) if self.keys and rid in self._logs else []
        for start in range(0, len(messages), STEP):
            there = {m.seq: m for m in messages[start : start + STEP] if m.id in self._messages}
            fresh, done = renewed(self.keys, rid, ((seq, form_of(entry)) for seq, entry in there.items()))
            for seq, sealed in fresh.items():
                self._replace(replace(there[seq], text=in_base64(sealed), lost="no_key"))
            await step(done)

    def _replace(self, message: Entry) -> None:
        room, log = self._rooms[message.rid], self._logs[message.rid]
        log.entries[message.seq - room.floor - 1] = message
        log.messages[bisect_left(log.messages, message.seq, key=by_seq)] = message
        self._messages[message.id] = message
        if message.cid is not None:
            room.firsts[message.mid, message.cid] = message

    # Rooms and members

    @when_open
    def heads(self, rids: Sequence[str]) -> dict[str, int]:
        return {rid: self._rooms[rid].head for rid in rids if rid in self._logs}

    @when_open
    def room(self, rid: str) -> Room | None:
        return self._as_seen(rid) if rid in self._logs else None

    @when_open
    def rooms(self, after: str, limit: int) -> list[Room]:
        # Python orders strings by code point, which is the order of their UTF-8 bytes.
        return [self._as_seen(rid) for rid in sorted(rid for rid in self._logs if rid > after)[:limit]]

    def _as_seen(self, rid: str) -> Room:
        room = self._rooms[rid]
        return Room(rid, room.head, room.floor, room.messages, len(room.members), room.ctime)

    @when_open
    def delete_room(self, rid: str) -> bool:
        if rid not in self._logs:
            return False
        if self._rooms[rid].members:
            raise occupied(rid)
        for message in self._logs.pop(rid).messages:
            del self._messages[message.id]
        head = self._rooms[rid].head
        self._rooms[rid] = StoredRoom(rid, head, floor=head, messages=0, ctime=0, deleted=True)
        return True

    def _forget_place(self, rid: str, mid: str) -> None:
        self._members[mid].discard(rid)
        for device in self._devices.get(mid, {}).values():
            device.cursors.pop(rid, None)
        self._drop_empty_devices(mid)

    @when_open
    def members(self, rid: str, after: str, limit: int) -> list[str]:
        if rid not in self._logs:
            return []
        return sorted(mid for mid in self._rooms[rid].members if mid > after)[:limit]

    @when_open
    def is_member(self, mid: str) -> bool:
        return mid in self._members

    @when_open
    def memberships(self, mid: str, device: str) -> list[Membership]:
        found = self._devices.get(mid, {}).get(device, StoredDevice())
        memberships = []
        for rid in sorted(self._members.get(mid, ())):
            room = self._rooms[rid]
            mine = room.members[mid]
            unread = room.messages - mine.read_nth
            memberships.append(Membership(rid, room.head, mine.joined, mine.read, unread, found.cursors.get(rid)))
        return memberships

    # Marks

    @when_open
    def move_cursors(self, cursors: Sequence[Cursor]) -> None:
        now = time.time_ns() // 1000
        for cursor in cursors:
            if cursor.rid not in self._members.get(cursor.mid, ()):
                continue
            seq = min(cursor.seq, self._rooms[cursor.rid].head)
            device = self._devices.setdefault(cursor.mid, {}).setdefault(cursor.device, StoredDevice())
            if seq > device.cursors.get(cursor.rid, -1):
                device.cursors[cursor.rid] = seq
                device.moved = now

    @when_open
    def move_reads(self, marks: Sequence[ReadMark]) -> list[int | None]:
        return [self._move_read(mark) for mark in marks]

    def _move_read(self, mark: ReadMark) -> int | None:
        if mark.rid not in self._members.get(mark.mid, ()):
            return None
        room = self._rooms[mark.rid]
        read = min(mark.seq, room.head)
        membership = room.members[mark.mid]
        if read <= membership.read:
            return None
        nth = bisect_right(self._logs[mark.rid].messages, read, key=by_seq)
        room.members[mark.mid] = replace(membership, read=read, read_nth=nth)
        return read

    @when_open
    def put_handed(self, mid: str, device: str, handed: Sequence[Handed]) -> None:
        found = self._devices.setdefault(mid, {}).setdefault(device, StoredDevice())
        found.handed = list(handed)
        if handed:
            found.moved = time.time_ns() // 1000
        self._drop_empty_devices(mid)

    @when_open
    def handed(self, mid: str, device: str) -> list[Handed]:
        return list(self._devices.get(mid, {}).get(device, StoredDevice()).handed)

    # Tokens

    @when_open
    def put_token(self, token: Token, keep: int) -> None:
        self._members.setdefault(token.mid, set())
        self._forget_token(token.digest)
        others = self._tokens_of.get(token.mid, {})
        kept = nlargest(keep - 1, others.values(), key=attrgetter("expires", "digest"))
        for digest in others.keys() - {other.digest for other in kept}:
            self._forget_token(digest)
        self._tokens[token.digest] = self._tokens_of.setdefault(token.mid, {})[token.digest] = token

    @when_open
    def token(self, digest: bytes) -> Token | None:
        return self._tokens.get(digest)

    @when_open
    def tokens(self, mid: str) -> list[Token]:
        return list(self._tokens_of.get(mid, {}).values())

    @when_open
    def drop_token(self, digest: bytes) -> Token | None:
        return self._forget_token(digest)

    def _forget_token(self, digest: bytes) -> Token | None:
        token = self._tokens.pop(digest, None)
        if token is not None:
            mine = self._tokens_of[token.mid]
            del mine[digest]
            if not mine:
                del self._tokens_of[token.mid]
        return token

    @when_open
    def drop_tokens(self, mid: str) -> int:
        digests = list(self._tokens_of.get(mid, ()))
        for digest in digests:
            self._forget_token(digest)
        return len(digests)

    @when_open
    def sweep(self, now: int, idle: int, devices: int) -> None:
        for token in [token for token in self._tokens.values() if token.expires <= now]:
            self._forget_token(token.digest)
        for mid in list(self._devices):
            lively = [(name, device) for name, device in self._devices[mid].items() if device.moved > now - idle]
            self._keep_devices(mid, dict(nlargest(devices, lively, key=lambda item: item[1].moved)))

    def _drop_empty_devices(self, mid: str) -> None:
        devices = self._devices.get(mid, {})
        self._keep_devices(mid, {name: device for name, device in devices.items() if device.cursors or device.handed})

    def _keep_devices(self, mid: str, devices: dict[str, StoredDevice]) -> None:
        if devices:
            self._devices[mid] = devices
        else:
            self._devices.pop(mid, None)
