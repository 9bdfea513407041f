"""The store on Redis: each room's log is a stream, whose ids are the entries' seqs.

A room's seq, floor and counts are read from its stream, so none of them can go back without the log. Each call is one
run of a script (lua/). Redis runs a script alone and as a whole, so each is a transaction; lua/append.lua is where
messages are committed. All calls share one connection, in the reactor's thread. docs/stores.md says which settings of
Redis the promise of durability needs. Redis Cluster does not work: a batch uses keys of many rooms.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

from msgspec.msgpack import Decoder, Encoder
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mercury.domain.counters import Load
from mercury.domain.model import Cursor, Draft, Entry, Membership, Outcome, ReadMark, Resealed, Room, Slice, Token
from mercury.errors import MercuryError
from mercury.interfaces import IAccounts, IStore
from mercury.stores.append_rules import occupied, refused, repeated
from mercury.stores.redis.accounts import RedisAccounts
from mercury.stores.redis.append import AppendAnswer, AppendReply, SealedDraft, SealingAppender
from mercury.stores.redis.link import RedisLink, RedisServer
from mercury.stores.redis.reseal import reseal
from mercury.stores.redis.script import SHA, SOURCE
from mercury.stores.sealing import NO_KEYS, STEP, Keys
from mercury.stores.unavailable import not_open, unavailable

_log = Logger()

EPOCH: Final = "mercury:epoch"
OLDEST: Final = (6, 2)  # XTRIM MINID
CHUNK: Final = 1000  # entries, devices or tokens dropped in one call, during which Redis does nothing else
PUBLISHED: Final = 256 * 1024  # bytes in one notification, about

_encode = Encoder().encode

_reply = Decoder(AppendReply)
_page = Decoder(tuple[list[Entry], int, int])
_history = Decoder(tuple[list[Entry], bool])
_located = Decoder(tuple[str, int] | None)
_token = Decoder(tuple[str, int] | None)
_tokens = Decoder(list[tuple[str, int]])
_room = Decoder(Room | None)
_rooms = Decoder(list[Room])
_memberships = Decoder(list[Membership])
_names = Decoder(list[str])
_numbers = Decoder(list[int])
_number = Decoder(int)
_name = Decoder(str)
_yes = Decoder(bool)
_yes_or_occupied = Decoder(bool | None)
_none = Decoder(None)


@implementer(IStore, IAccounts)
class RedisStore(RedisAccounts):
    """IStore in a Redis server's database.

    `rooms_per_member`: how many rooms a member may be in. `keep`: how many entries of a room are kept (a few more stay
    for a while). For both, 0 means any number. `keys`: what texts are sealed with.
    `channel`: with it, the script that stores a room's new entries publishes them, too, on the channel whose name is
    `channel` followed by the room's name, as from the bus's `node`; mercury/bus/redis.py subscribes there.

    Cancelling a Deferred drops the answer; what was asked is done all the same.
    """

    epoch = ""

    def __init__(
        self,
        reactor: Any,
        server: RedisServer,
        rooms_per_member: int = 0,
        *,
        keep: int = 0,
        channel: str | None = None,
        node: str = "",
        keys: Keys = NO_KEYS,
    ) -> None:
        self.keys = keys
        self._reactor = reactor
        self._server = server
        self.rooms_per_member = rooms_per_member
        self._keep = keep
        self._channel = channel
        self._node = node
        self._link: RedisLink | None = None
        self._sealing = SealingAppender(reactor, self._append)

    @property
    def load(self) -> list[Load]:
        return [self._link.load] if self._link else []

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        self._link = RedisLink(self._reactor, self._server, self._on_connect)
        try:
            await self._link.open()
        except MercuryError as error:
            await self._link.close()
            raise MercuryError(error.code, f"the store cannot be used: {error.reason}", error.retry_after) from None

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._sealing.idle()
        if self._link is not None:
            await self._link.close()

    async def _on_connect(self, protocol: Any) -> None:
        """Check on every new connection that this Redis is new enough, and that it still has its data."""
        info = _as_dict(await protocol.execute_command("INFO"))
        if tuple(map(int, info["redis_version"].split(".")[:2])) < OLDEST:
            raise unavailable(f"{self._server} is version {info['redis_version']}, and 6.2 or later is needed")
        await protocol.execute_command("SCRIPT", "LOAD", SOURCE)
        if not self.epoch:
            _warn(self._server, info)
            await protocol.execute_command("SET", EPOCH, secrets.token_hex(8), "NX")
        found = await protocol.execute_command("GET", EPOCH)
        if self.epoch and found != self.epoch.encode():
            raise unavailable(
                f"{self._server} came back without its data; restore it, or restart Mercury to continue without it"
            )
        self.epoch = found.decode()

    def _call(self, decoder: Decoder[Any], name: str, /, **args: Any) -> Deferred[Any]:
        """Run one call of the script; its answer, decoded. Fails with MercuryError only."""
        if self._link is None:
            return not_open()
        return self._link.run_script(SHA, SOURCE, (name, _encode(args))).addCallback(decoder.decode)

    def ping(self) -> Deferred[None]:
        if self._link is None:
            return not_open()
        return self._link.call("PING").addCallback(lambda reply: None)

    def begin_anew(self) -> Deferred[int]:
        return Deferred.fromCoroutine(self._begin_anew())

    async def _begin_anew(self) -> int:
        epoch = secrets.token_hex(8)
        first: int = await self._call(_number, "begin_anew", epoch=epoch, now=time.time_ns() // 1000)
        self.epoch = epoch
        return first

    # The log

    def append(self, drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        appending = self._sealing.append(drafts, ctime, self.keys) if self.keys.ids else self._append(drafts, ctime)
        return appending.addCallback(self._outcomes, drafts, ctime)

    def _append(self, drafts: Sequence[Draft | SealedDraft], ctime: int) -> Deferred[AppendReply]:
        """Have lua/append.lua decide and store a batch."""
        publishing = {"channel": self._channel, "node": self._node, "chunk": PUBLISHED}
        limits = {"limit": self.rooms_per_member, "keep": self._keep}
        return self._call(_reply, "append", drafts=drafts, ctime=ctime, **limits, **publishing)

    def _outcomes(self, reply: AppendReply, drafts: Sequence[Draft], ctime: int) -> list[Outcome | MercuryError]:
        return [self._outcome(draft, ctime, a) for draft, a in zip(drafts, reply.answers, strict=True)]

    def _outcome(self, draft: Draft, ctime: int, a: AppendAnswer) -> Outcome | MercuryError:
        if a.error is not None:
            return refused(draft, a.error, a.who, self.rooms_per_member)
        if a.first is not None:
            return repeated(draft, self.keys.opened(a.first))
        if a.nothing:
            return Outcome(None)
        if draft.kind == "message":
            return Outcome(Entry(draft.rid, a.seq, a.id, "message", ctime, draft.mid, draft.text, draft.cid))
        return Outcome(Entry(draft.rid, a.seq, a.id, draft.kind, ctime, members=a.members))

    def read(self, rid: str, after: int, limit: int) -> Deferred[Slice]:
        return self._call(_page, "read", rid=rid, after=after, limit=limit).addCallback(self._slice)

    def _slice(self, page: tuple[list[Entry], int, int]) -> Slice:
        entries, head, floor = page
        return Slice([self.keys.opened(entry) for entry in entries], head, floor)

    def history(
        self, rid: str, before: int | None, after: int | None, limit: int
    ) -> Deferred[tuple[list[Entry], bool]]:
        found = self._call(_history, "history", rid=rid, before=before, after=after, limit=limit)
        return found.addCallback(lambda page: ([self.keys.opened(entry) for entry in page[0]], page[1]))

    def locate(self, id: int, rid: str | None) -> Deferred[tuple[str, int] | None]:
        if rid is None:
            return self._call(_located, "locate", id=id)
        return self._call(_number, "locate_in_room", id=id, rid=rid).addCallback(lambda seq: (rid, seq))

    def reseal(self, rid: str, step: Callable[[Resealed], Deferred[None]]) -> Deferred[None]:
        def read(after: int) -> Deferred[tuple[list[Entry], int, int]]:
            return self._call(_page, "read", rid=rid, after=after, limit=STEP)

        if self._link is None or not self.keys:
            return self.ping()
        return Deferred.fromCoroutine(reseal(self.keys, rid, step, read, partial(self._call, _number)))

    # Rooms and members

    def heads(self, rids: Sequence[str]) -> Deferred[dict[str, int]]:
        found = self._call(_numbers, "heads", rids=rids)
        return found.addCallback(lambda heads: {r: head for r, head in zip(rids, heads, strict=True) if head >= 0})

    def room(self, rid: str) -> Deferred[Room | None]:
        return self._call(_room, "room", rid=rid)

    def rooms(self, after: str, limit: int) -> Deferred[list[Room]]:
        return self._call(_rooms, "rooms", after=after, limit=limit)

    def delete_room(self, rid: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._delete_room(rid))

    async def _delete_room(self, rid: str) -> bool:
        deleted: bool | None = await self._call(_yes_or_occupied, "delete_room", rid=rid, grave=secrets.token_hex(8))
        if deleted is None:
            raise occupied(rid)
        if deleted:  # the room is gone; what is left of a long one goes when the store is swept
            await self._call(_number, "bury", count=CHUNK).addErrback(lambda failure: failure.trap(MercuryError))
        return deleted

    def members(self, rid: str, after: str, limit: int) -> Deferred[list[str]]:
        return self._call(_names, "members", rid=rid, after=after, limit=limit)

    def is_member(self, mid: str) -> Deferred[bool]:
        return self._call(_yes, "is_member", mid=mid)

    def memberships(self, mid: str, device: str) -> Deferred[list[Membership]]:
        return self._call(_memberships, "places", mid=mid, device=device).addCallback(sorted, key=attrgetter("rid"))

    # Marks

    def move_cursors(self, cursors: Sequence[Cursor]) -> Deferred[None]:
        return self._call(_none, "move_cursors", cursors=cursors, now=time.time_ns() // 1000)

    def move_reads(self, marks: Sequence[ReadMark]) -> Deferred[list[int | None]]:
        moved = self._call(_numbers, "move_reads", marks=marks)
        return moved.addCallback(lambda answers: [None if read < 0 else read for read in answers])

    # Tokens

    def put_token(self, token: Token, keep: int) -> Deferred[None]:
        return self._call(
            _none, "put_token", digest=token.digest.hex(), mid=token.mid, expires=token.expires, keep=keep
        )

    def token(self, digest: bytes) -> Deferred[Token | None]:
        return self._call(_token, "token", digest=digest.hex()).addCallback(
            lambda found: found and Token(digest, *found)
        )

    def tokens(self, mid: str) -> Deferred[list[Token]]:
        found = self._call(_tokens, "tokens", mid=mid)
        return found.addCallback(lambda rows: [Token(bytes.fromhex(digest), mid, expires) for digest, expires in rows])

    def drop_token(self, digest: bytes) -> Deferred[Token | None]:
        return self._call(_token, "drop_token", digest=digest.hex()).addCallback(_as_token, digest)

    def drop_tokens(self, mid: str) -> Deferred[int]:
        return self._call(_number, "drop_tokens", mid=mid)

    def sweep(self, now: int, idle: int, devices: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self._sweep(now, idle, devices))

    async def _sweep(self, now: int, idle: int, devices: int) -> None:
        while await self._call(_number, "sweep", now=now, idle=idle, devices=devices, count=CHUNK):
            pass
        while await self._call(_number, "bury", count=CHUNK):
            pass


def _as_token(found: tuple[str, int] | None, digest: bytes) -> Token | None:
    return Token(digest, *found) if found else None


def _as_dict(info: bytes) -> dict[str, str]:
    """The reply to INFO."""
    return dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)


def _warn(server: RedisServer, info: dict[str, str]) -> None:
    """Log which of the server's settings can lose messages. docs/stores.md lists them all."""
    if info.get("aof_enabled") == "0":
        _log.warn("{server} has appendonly off: if it crashes, acknowledged messages are lost", server=str(server))
    if info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy") != "noeviction":
        _log.warn(
            "{server} has maxmemory-policy {policy}: it deletes messages when memory is full; set noeviction",
            server=str(server),
            policy=info.get("maxmemory_policy"),
        )
