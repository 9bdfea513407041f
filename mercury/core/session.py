"""A session: one connection of one member's device, from its login to its end.

Commands are taken in the order in which they come. Sends go into the journal one behind the other without waiting for
each other's commits; anything else waits until the sends before it are answered, and is answered before what follows it
begins. When too much is waiting, the connection is not read until there is room again, so TCP holds the client back.

What the session delivers, and when, is the hub's and the catching up's matter (delivery/). The session keeps
two clocks: the barrier, by which delivery is proved, and the heartbeat, by which dead peers are found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.core.delivery.listeners import Listener, LiveRoom, Opening
from mercury.core.group_commit import as_error
from mercury.core.handlers import answer
from mercury.core.parts import Chat
from mercury.domain import close_codes, commands, events
from mercury.domain.close_codes import CloseReason
from mercury.domain.counters import Cause
from mercury.domain.log_context import in_context
from mercury.domain.model import NAME_BYTES, Membership, Outcome, Token, check_text_of
from mercury.errors import MercuryError
from mercury.interfaces import IConnection, IFrameEncoder

INBOX = 256  # commands of one session that may wait before its connection is held
MISSED = 2  # pings without a sign of life after which a peer is taken for dead

_log = Logger()  # not one of the class, whose events would keep sessions for as long as somebody keeps the events


class Session(Listener):
    """One connection. The transport calls login() or await_connect(), then on_frame() and what tells of the connection.

    `decode` makes a command of a frame, `encoder` makes frames of events.
    """

    __slots__ = (
        "_awaited", "_awaiting", "_busy", "_chat", "_decode", "_expires", "_going_on", "_held", "_inbox", "_open",
        "_pings", "_queued", "_sending", "_silent", "_slot", "_stalled", "_taken", "_takes", "_timer",
        "_unproved", "_wheel", "since",
    )  # fmt: skip

    def __init__(
        self,
        chat: Chat,
        connection: IConnection,
        decode: Callable[[bytes, bool], commands.Command],
        encoder: IFrameEncoder,
    ) -> None:
        super().__init__(connection, encoder)
        self._decode = decode
        self.since = chat.clock.seconds()
        self._chat = chat
        self._open = True
        self._takes = True
        self._expires: Token | None = None
        self._inbox: deque[commands.Command] | None = None
        self._timer: IDelayedCall | None = None
        self._sending = 0
        self._busy = False
        self._going_on = False
        self._held = False
        self._pings = 0
        self._awaiting: list[tuple[LiveRoom, int]] | None = None
        self._awaited = 0
        self._queued = False
        self._unproved = False
        self._wheel = chat.heartbeat.wheel()
        self._slot = self._wheel.add(self)
        self._silent = 0
        self._taken = 0
        self._stalled = 0.0

    @property
    def number(self) -> int:
        """Which session it is, for operators and logs."""
        return self.connection.number

    # Logging in

    def await_connect(self) -> None:
        """The connection's URL held no token: its first frame has to be a connect, and soon."""
        if seconds := self._chat.limits.handshake_seconds:
            self._timer = self._chat.clock.callLater(seconds, self._is_late)

    def _is_late(self) -> None:
        self._chat.counters.refused["handshake-seconds"] += 1
        self.end(close_codes.BAD_CONNECT)

    def login(self, token: Token, checked: float, device: str, resume: commands.Resume | None = None) -> None:
        """Begin: the token was found good at `checked` (clock). What is received meanwhile waits."""
        self._stop_timer()
        self._busy = True
        self._watch(self._login(token, checked, device, resume))

    async def _connect(self, connect: commands.Connect) -> None:
        self._stop_timer()
        checked = self._chat.clock.seconds()
        token = await self._chat.tokens.check(connect.token, connect.member)
        await self._login(token, checked, connect.device, connect.resume)

    async def _login(self, token: Token, checked: float, device: str, resume: commands.Resume | None) -> None:
        if not self._open:
            return
        self.device = check_text_of("device", device, NAME_BYTES)
        self.mid, self.token, self._expires = token.mid, token.digest, token
        self.opening = Opening()  # also if it is not let in: _failed() asks
        first = self._chat.hub.enter(self, checked)
        _log.debug(
            "{member} is connected by {protocol}", peer=self.connection.peer, member=self.mid, device=self.device,
            protocol=self.encoder.name,
        )  # fmt: skip
        memberships, joined = await self._chat.hub.memberships.open(self)
        if not self._open:
            return
        self._chat.outbox.cork()
        try:
            self._begin(memberships, joined, resume)
        finally:
            self._chat.outbox.uncork()
        if first:
            for room in self.rooms:
                self._chat.hub.presence(room.rid, self.mid, True, but=self)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _begin(self, memberships: list[Membership], joined: dict[str, int], resume: commands.Resume | None) -> None:
        hub, epoch = self._chat.hub, self._chat.store.epoch
        states = [events.room_state(membership) for membership in memberships]
        self._greet(events.Hello(self.mid, self.device, epoch, self._wheel.interval, states))
        for membership in memberships:
            hub.listen(self, membership.rid, self._resume_at(membership, resume, epoch), membership.head)
        for rid, seq in joined.items():
            if resume is not None and rid in resume.rooms:  # left and joined again meanwhile
                self._tell_of(rid, events.Reset(rid, seq - 1))
            hub.listen(self, rid, seq, seq)
        for room in self.rooms:
            if not room.cold and self not in room.behind and self not in room.paused:
                self.caught_up(room)
        self.catch_up("login")

    def _resume_at(self, membership: Membership, resume: commands.Resume | None, epoch: str) -> int:
        """The seq that this device is to get next in a room: after what the client says it has, or what it was proved
        to have, or from the member's joining on."""
        pending = self._chat.marks.pending(membership.rid, self.mid, self.device)
        known = max(
            membership.delivered or 0, pending, membership.joined - 1
        )  # what was proved before they left counts no more
        if resume is None or membership.rid not in resume.rooms:
            return known + 1
        claimed = resume.rooms[membership.rid]
        if resume.epoch == epoch and claimed <= membership.head:
            return claimed + 1
        floor = membership.joined - 1  # another store's numbers: start afresh
        self._tell_of(membership.rid, events.Reset(membership.rid, floor))
        return floor + 1

    def _greet(self, hello: events.Hello) -> None:
        self._tell(hello)

    # Commands

    def on_frame(self, payload: bytes, binary: bool) -> None:
        """A whole message came in."""
        self.receive(self._decode(payload, binary))

    def receive(self, command: commands.Command) -> None:
        """A command came in. Answers go out in the order of the commands."""
        self._silent = 0
        if not self._takes:
            return
        if self._busy or self.is_slow or self._inbox:
            self._wait(command)
        elif type(command) is commands.Send and self.mid:  # as nearly all are
            self._send(command)
        elif self._sending:
            self._wait(command)
        else:
            self._start(command)

    def _wait(self, command: commands.Command, first: bool = False) -> None:
        if self._inbox is None:
            self._inbox = deque()
        if first:
            self._inbox.appendleft(command)
        else:
            self._inbox.append(command)
        self._hold_if_full()

    def _start(self, command: commands.Command) -> None:
        if type(command) is commands.Send and self.mid:
            self._send(command)
        elif isinstance(command, commands.Bad):
            self._refuse(command.ref, command.error)
            if not self.mid:
                self.end(close_codes.BAD_CONNECT)
        else:
            self._busy = True
            self._watch(self._do(command), command.ref)

    def _send(self, command: commands.Send) -> None:
        def done(outcome: Outcome | MercuryError) -> None:
            try:
                self._sent(command.ref, outcome)
            except Exception:
                _log.failure("answering {peer} failed", peer=self.connection.peer, session=self.number)

        try:
            self._chat.hub.room_of(self, command.rid)
            self._chat.rooms.send(self.mid, command.rid, command.text, command.cid, done)
        except MercuryError as error:
            if self._sending:  # its turn to be answered comes after theirs
                self._wait(commands.Bad(ref=command.ref, error=error), first=True)
            else:
                self._refuse(command.ref, error)
            return
        self._sending += 1
        self._hold_if_full()

    def _sent(self, ref: commands.Ref, outcome: Outcome | MercuryError) -> None:
        self._sending -= 1
        if not self._open:
            return
        if isinstance(outcome, MercuryError):
            self._refuse(ref, outcome)
        elif outcome.entry is not None and self.encoder.acknowledges:
            self._tell(events.SendOk(ref=ref, id=outcome.entry.id, seq=outcome.entry.seq, duplicate=outcome.duplicate))
        if self._inbox or self._held:
            self._go_on()

    async def _do(self, command: commands.Command) -> None:
        if not self.mid:
            if not isinstance(command, commands.Connect):
                raise MercuryError("bad_request", "the first frame must be a connect")
            await self._connect(command)
        else:
            for event in await answer(self._chat, self, command):
                self._tell(event)

    def _watch(self, work: Coroutine[Deferred[Any], Any, None], ref: commands.Ref = None) -> None:
        Deferred.fromCoroutine(work).addErrback(self._failed, ref).addBoth(self._done)

    def _failed(self, failure: Failure, ref: commands.Ref) -> None:
        error = as_error(failure)
        if error.code == "internal":
            _log.failure("a command of {peer} failed", failure, peer=self.connection.peer, session=self.number)
        self._refuse(ref, error)
        if not self.mid or self.opening is not None:  # there is no going on without a login
            endings = {"unauthorized": close_codes.UNAUTHORIZED, "bad_request": close_codes.BAD_CONNECT}
            self.end(endings.get(error.code, close_codes.BUSY))

    def _done(self, _: object) -> None:
        self._busy = False
        self._go_on()

    def _go_on(self) -> None:
        """Start what waits, as far as its turn has come, and read on when there is room again."""
        if self._going_on:  # a command was done at once: the loop below, which began it, takes the next
            return
        inbox = self._inbox
        self._going_on = True
        try:
            while inbox and self._open and not self._busy and not self.is_slow:
                if self._sending and type(inbox[0]) is not commands.Send:
                    break
                in_context(self.log_context, self._start, inbox.popleft())
        finally:
            self._going_on = False
        if self._held and not self.is_slow and self._sending + len(inbox or ()) < INBOX // 2:
            self._held = False
            self.connection.resume_reading()

    def _hold_if_full(self) -> None:
        if not self._held and self._sending + len(self._inbox or ()) >= INBOX:
            self._held = True
            self.connection.pause_reading()

    def _refuse(self, ref: commands.Ref, error: MercuryError) -> None:
        self._chat.counters.error(error)
        self._tell(events.Error(ref=ref, code=error.code, reason=error.reason, retry_after=error.retry_after))

    def _tell(self, event: events.Event) -> None:
        if data := self.encoder.event(event):
            self._chat.outbox.put((self,), data)

    def _tell_of(self, rid: str, event: events.Event) -> None:
        """Tell of what has become of the session's place in a room."""
        if data := self.encoder_in(rid).event(event):
            self._chat.outbox.put((self,), data)

    # What the hub and the catching up ask for

    def write(self, data: bytes) -> None:
        self.connection.write(data)
        self._wants_proof()

    def caught_up(self, room: LiveRoom) -> None:
        self._tell_of(room.rid, events.CaughtUp(room.rid, room.head))

    def catch_up(self, cause: Cause) -> None:
        self._chat.catch_up.start(self, cause)

    # The peer's pace

    def slow(self) -> None:
        """The peer's socket is full: nothing live until drained(), and nothing is read from it either."""
        self.is_slow = True
        self._chat.counters.slowed += 1
        self._stalled, self._taken = 0.0, self.connection.bytes_taken()
        for room in self.rooms:
            room.fall_behind(self)
        self.connection.pause_reading()

    def drained(self) -> None:
        """The socket has room again: the log is read from where the live feed was left."""
        self.is_slow = False
        if not self._held:
            self.connection.resume_reading()
        self._go_on()
        self.catch_up("slow")

    # Proof of delivery

    def _wants_proof(self) -> None:
        if self._awaiting is not None:
            self._unproved = True
        elif not self._queued and self.rooms:
            self._queued = True
            self._chat.barrier.add(self)

    def prove(self) -> bool:
        self._queued = False
        if self._awaiting is not None:
            self._unproved = True
            return False
        unproved = [(r, seq) for r, proved in self.rooms.items() if (seq := r.next_seq(self) - 1) > proved]
        if not self._open or not unproved:
            return False
        self._awaiting = unproved
        self._awaited = self._ping()
        return True

    def _ping(self) -> int:
        """Send a ping with the next number, and return that."""
        self._pings += 1
        self.connection.ping(b"%d" % self._pings)
        return self._pings

    def pong(self, payload: bytes) -> None:
        """The peer answered a ping: that one's number or a later one's proves, since a peer may answer only the last
        of several (RFC 6455, 5.5.3). A number that was not sent yet proves nothing."""
        self._silent = 0
        number = int(payload) if payload.isdigit() and len(payload) < 20 else 0
        if self._awaiting is None or not self._awaited <= number <= self._pings:
            return
        proved, self._awaiting = self._awaiting, None
        for room, seq in proved:
            self.delivered(room, seq)
        if self._unproved:
            self._unproved = False
            self._wants_proof()

    def delivered(self, room: LiveRoom, seq: int) -> None:
        """The client has all of the room up to seq."""
        if seq > self.rooms.get(room, seq):
            self.rooms[room] = seq
            self._chat.marks.delivered(room.rid, self.mid, self.device, seq)

    # The end

    def beat(self) -> None:
        if self._expires is not None and self._chat.tokens.expired(self._expires):
            self.end(close_codes.UNAUTHORIZED)
        elif self.is_slow:
            self._beat_slow()
        elif self._held:
            return  # its pongs are not read either
        elif self._silent >= MISSED:
            self.end(close_codes.GONE)
        elif self._wheel.interval:
            self._silent += 1
            self._ping()

    def _beat_slow(self) -> None:
        taken = self.connection.bytes_taken()
        self._stalled = 0.0 if taken != self._taken else self._stalled + self._wheel.turn
        self._taken = taken
        if self._stalled >= self._chat.limits.drain_seconds:
            self.end(close_codes.TOO_SLOW)

    def finish(self) -> None:
        """Take no more commands: what was begun is answered, and the rest is for another connection to ask again."""
        self._takes = False
        self._inbox = None

    def end(self, why: CloseReason) -> None:
        self.connection.close(why.code, why.reason)
        self._leave()  # at once: what a peer sends while it is being closed counts for nothing

    def closed(self, code: int) -> None:
        """The connection is gone, ended with this code. May come at any time, also without a login."""
        self._leave()
        _log.debug(
            "the session of {peer} has ended with {code}", peer=self.connection.peer, member=self.mid,
            protocol=self.encoder.name, code=code, session=self.number,
        )  # fmt: skip

    def _leave(self) -> None:
        if self._open:
            self._open = False
            self.finish()
            self._stop_timer()
            self._wheel.remove(self, self._slot)
            self._chat.hub.exit(self)
            self.out.clear()
