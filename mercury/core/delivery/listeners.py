"""A room as this node serves it, and those who listen to it, each from their place in the log.

The whole delivery protocol is one number a listener, `next_seq`: what comes with that number is delivered, what is
above it means that something was missed and the log must be read, what is below was delivered already. Nearly all
listeners of a room stand at the same place, right behind its head, and are kept together, by wire, so that a batch
costs nothing but a write for each. Only who is behind has a number of their own, and who pauses: a client that has not
asked for a room's log keeps its place in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from mercury.domain.close_codes import CloseReason
from mercury.domain.counters import Cause
from mercury.domain.events import Event
from mercury.domain.log_context import LogContext
from mercury.domain.model import Entry, Membership
from mercury.interfaces import IConnection, IFrameEncoder, IPeer


class LiveRoom:
    """A room with at least one session here.

    `early`: entries that came before others which they follow.
    `head`: the last seq this node knows of. `told_after`: all above it was told here, each in its turn. `cold`: the
    head is not known to be the log's own head yet, so nobody can be live; `cause`: why it became so last. `live`: the
    sessions whose next_seq is head + 1. `behind`: the others, with their next_seq. `paused`: those who do not hear the
    log, with the next_seq at which they would go on.
    """

    __slots__ = ("behind", "cause", "cold", "early", "head", "live", "paused", "rid", "told_after")

    def __init__(self, rid: str, head: int) -> None:
        self.rid = rid
        self.head = self.told_after = head
        self.early: list[Entry] = []
        self.cold = True
        self.cause: Cause = "login"
        self.live: dict[IFrameEncoder, set[RoomListener]] = {}
        self.behind: dict[RoomListener, int] = {}
        self.paused: dict[RoomListener, int] = {}

    def __iter__(self) -> Iterator[RoomListener]:
        for sessions in self.live.values():
            yield from sessions
        yield from self.behind
        yield from self.paused

    def __len__(self) -> int:
        return sum(map(len, self.live.values())) + len(self.behind) + len(self.paused)

    def next_seq(self, session: RoomListener) -> int:
        """The seq that this session is to get next."""
        if session in self.paused:
            return self.paused[session]
        return self.behind.get(session, self.head + 1)

    def attach(self, session: RoomListener, next_seq: int) -> bool:
        """Put a session at its place; whether that is live."""
        if next_seq == self.head + 1 and not self.cold and not session.is_slow:
            self.behind.pop(session, None)
            if not self.behind:
                self.behind.clear()  # an emptied dict keeps the room for five entries, 0.2 KB
            self.live.setdefault(session.encoder_in(self.rid), set()).add(session)
            return True
        self.behind[session] = next_seq
        return False

    def fall_behind(self, session: RoomListener) -> None:
        """Take a session out of the live ones; it keeps its place."""
        sessions = self.live.get(session.encoder_in(self.rid))
        if sessions and session in sessions:
            sessions.discard(session)
            self.behind[session] = self.head + 1

    def chill(self, cause: Cause) -> None:
        """Entries may have been missed: everybody is behind until the head is known again."""
        if not self.cold:
            self.cold, self.cause = True, cause
        for sessions in self.live.values():
            for session in sessions:
                self.behind[session] = self.head + 1
        self.live.clear()

    def is_read_by(self, session: RoomListener) -> bool:
        """Whether the session would find in the log what it was not told."""
        return session.reads and session not in self.paused

    def remove(self, session: RoomListener) -> None:
        """Let a session go."""
        self.behind.pop(session, None)
        self.paused.pop(session, None)
        encoder = session.encoder_in(self.rid)
        sessions = self.live.get(encoder)
        if sessions is not None:
            sessions.discard(session)
            if not sessions:
                del self.live[encoder]

    def pause(self, session: RoomListener, next_seq: int) -> None:
        """The session is in the room and does not hear its log."""
        self.remove(session)
        self.paused[session] = next_seq


class Opening:
    """What comes while a session's places are being read: `told`, for a room the seq of the last join or leave, and
    whether it was a join; `doubted`, that there may be more, so that the places have to be read again."""

    __slots__ = ("doubted", "told")

    def __init__(self) -> None:
        self.told: dict[str, tuple[int, bool]] = {}
        self.doubted = False

    def note(self, rid: str, seq: int, is_in: bool) -> None:
        """A join or leave was told."""
        if self.told.get(rid, (0, False))[0] < seq:
            self.told[rid] = (seq, is_in)

    def over(self, memberships: Sequence[Membership]) -> tuple[list[Membership], dict[str, int]]:
        """The places were read: those that hold, and the rooms that the member was put into since, with the seq of it.

        What was told meanwhile may be older than what was read, so only what comes behind a place's own joining changes
        it.
        """
        joined = {membership.rid: membership.joined for membership in memberships}
        newer = {rid: change for rid, change in self.told.items() if change[0] > joined.get(rid, 0)}
        return [p for p in memberships if p.rid not in newer], {
            rid: seq for rid, (seq, is_in) in newer.items() if is_in
        }


class Sink(ABC):
    """Where the outbox writes. `out`: frames that it gathers. `rooms`: where the listener is, each room with the seq up
    to which delivery is proved."""

    __slots__ = ("connection", "out", "rooms")

    connection: IPeer

    def __init__(self, connection: IPeer) -> None:
        self.connection = connection
        self.out: list[bytes] = []
        self.rooms: dict[LiveRoom, int] = {}

    @property
    def log_context(self) -> LogContext:
        """What the log's lines about serving it carry."""
        return ("session", self.connection.number)

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Write joined frames to the connection."""


class RoomListener(Sink):
    """Listens to its member's rooms: what the hub, the rooms and catching up know of a session or a long poll.

    `mid`, `device`: whose it is; mid is empty until it is logged in. `token`: the digest of what it logged in with.
    `encoder`: for what it says to its own client. `opening`: what comes while the member's places are being read; None
    afterwards. `is_slow`: its socket is full, so nothing live is written to it. `reads`: whether it reads the log, and
    so finds in it what was not told here.
    """

    reads = True

    __slots__ = ("device", "encoder", "is_slow", "mid", "opening", "token")

    def __init__(self, connection: IPeer, encoder: IFrameEncoder) -> None:
        super().__init__(connection)
        self.encoder = encoder
        self.mid = ""
        self.device = ""
        self.token = b""
        self.opening: Opening | None = None
        self.is_slow = False

    def hears(self, rid: str) -> bool:
        """Whether it is to get this room's log; else it pauses there."""
        return True

    def encoder_in(self, rid: str) -> IFrameEncoder:
        """What encodes this room's log for it. May change only while it is not live there."""
        return self.encoder

    def left(self, rid: str) -> None:
        """It is out of this room now."""

    @abstractmethod
    def caught_up(self, room: LiveRoom) -> None:
        """It is live in this room now."""

    @abstractmethod
    def catch_up(self, cause: Cause) -> None:
        """Read the logs of the rooms in which it is behind, unless that goes on already or it is slow."""

    def finish(self) -> None:
        """Take no more commands; what was begun is answered."""

    @abstractmethod
    def end(self, why: CloseReason) -> None:
        """Listen no more; a session closes its connection."""


class Pingable(RoomListener):
    """A listener whose client is on a connection that can be pinged: a session."""

    __slots__ = ()

    connection: IConnection

    @abstractmethod
    def send_event(self, event: Event) -> None:
        """Tell the client something."""

    @abstractmethod
    def send_event_in(self, rid: str, event: Event) -> None:
        """Tell the client where it stands in a room's log."""

    @abstractmethod
    def beat(self) -> None:
        """One turn of the heartbeat has gone by."""

    @abstractmethod
    def prove(self) -> bool:
        """Ping the client, if anything is unproved; whether it was pinged."""

    @abstractmethod
    def delivered(self, room: LiveRoom, seq: int) -> None:
        """It is proved that the client has all of the room up to seq."""
