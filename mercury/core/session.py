"""A session: one connection of one member's device, from its login to its end.

A session is made of parts. CommandQueue, below, keeps its commands in order. DeliveryProof (delivery/proof.py) knows
what has arrived. Pace (delivery/heartbeat.py) finds a peer that is gone, or too slow. A Dialect (dialect.py) speaks the
client's subprotocol. Session itself has the login, what the client is told, and the end. What is delivered, and when,
is up to the hub and to catching up (delivery/hub.py, delivery/catch_up.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.core.delivery.heartbeat import Pace
from mercury.core.delivery.listeners import LiveRoom, Opening, Pingable
from mercury.core.delivery.proof import DeliveryProof
from mercury.core.dialect import Dialect, HangUpError
from mercury.core.group_commit import as_error
from mercury.core.login import Login, listen
from mercury.core.parts import Chat
from mercury.domain import close_codes, commands, events
from mercury.domain.close_codes import CloseReason
from mercury.domain.counters import Cause
from mercury.domain.log_context import in_context
from mercury.domain.model import NAME_BYTES, Outcome, Token, check_text_of
from mercury.errors import MercuryError
from mercury.interfaces import IConnection, IFrameEncoder

INBOX = 256  # commands of one session that may wait before its connection is not read
MISSED = 2  # pings without a sign of life after which a peer is taken for dead

#: The states of a CommandQueue. In those up to SENDING, a send need not wait.
IDLE: Final = 0
SENDING: Final = 1
BUSY: Final = 2
NEW: Final = 3
FINISHED: Final = 4
CLOSED: Final = 5

_log = Logger()  # not one of the class, whose events would keep sessions for as long as somebody keeps the events


class CommandQueue:
    """The order in which the commands of one session are carried out and answered.

    | state    | a send comes      | another command comes   | a send is answered       | the command is done       |
    |----------|-------------------|-------------------------|--------------------------|---------------------------|
    | NEW      | begin it: BUSY    | begin it: BUSY          |                          |                           |
    | IDLE     | send it: SENDING  | begin it: BUSY          |                          |                           |
    | SENDING  | send it           | wait                    | the last one: IDLE, next | |
    | BUSY     | wait              | wait                    |                          | IDLE, or NEW again; next  |
    | FINISHED | drop it           | drop it                 | answer it                | |
    | CLOSED   | drop it           | drop it                 | nothing                  | |

    NEW lasts until the client has logged in. Sends follow each other into the journal without waiting for each other's
    commits. "Next": what waits is begun, as far as its turn has come. While something waits, or the client's socket is
    full, everything that comes waits behind it. When INBOX commands wait or are being sent, the connection is not read
    (`is_held`) until half of them are answered, so TCP holds the client back.
    """

    __slots__ = ("_is_going_on", "_sending", "_session", "_waiting", "is_held", "state")

    def __init__(self, session: Session) -> None:
        self.state = NEW
        self.is_held = False
        self._session = session
        self._waiting: deque[commands.Command] | None = None
        self._sending = 0
        self._is_going_on = False

    def receive(self, command: commands.Command) -> None:
        """A command came in."""
        state = self.state
        if state >= FINISHED:
            return
        if state == BUSY or self._waiting or self._session.is_slow:
            self._wait(command)
        elif state <= SENDING and type(command) is commands.Send:  # as nearly all are
            self._send(command)
        elif state == SENDING:
            self._wait(command)
        else:
            self._begin(command)

    def run(self, work: Coroutine[Deferred[Any], Any, None], ref: commands.Ref = None) -> None:
        """Be BUSY until this is done."""
        self.state = BUSY
        Deferred.fromCoroutine(work).addErrback(self._session.failed, ref).addBoth(self._done)

    def _wait(self, command: commands.Command, first: bool = False) -> None:
        if self._waiting is None:
            self._waiting = deque()
        if first:
            self._waiting.appendleft(command)
        else:
            self._waiting.append(command)
        if self._sending + len(self._waiting) >= INBOX:
            self._hold()

    def _begin(self, command: commands.Command) -> None:
        if isinstance(command, commands.Bad):
            self._session.refuse_bad(command)
        else:
            self.run(self._session.perform(command), command.ref)

    def _send(self, command: commands.Send) -> None:
        """Hand it to the journal; _sent() comes after the commit. What is refused at once is answered in its turn."""
        session = self._session
        chat, rid = session.chat, command.rid
        sending = self._sending + 1
        try:
            if chat.hub.rooms.get(rid) not in session.rooms:
                chat.hub.room_of(session, rid)  # says why not
            chat.rooms.send(session.mid, rid, command.text, command.cid, partial(self._sent, command.ref))
        except MercuryError as error:
            if self._sending:
                self._wait(commands.Bad(ref=command.ref, error=error), first=True)
            else:
                session.refuse(command.ref, error)
            return
        self._sending = sending
        self.state = SENDING
        if sending >= INBOX and not self.is_held:
            self._hold()

    def _sent(self, ref: commands.Ref, outcome: Outcome | MercuryError) -> None:
        self._sending = sending = self._sending - 1
        if self.state == CLOSED:
            return
        if not sending and self.state == SENDING:
            self.state = IDLE
        try:
            self._session.answer_send(ref, outcome)
        finally:
            if self._waiting or self.is_held:
                self.go_on()

    def _done(self, _: object) -> None:
        if self.state == BUSY:
            self.state = IDLE if self._session.mid else NEW
        self.go_on()

    def go_on(self) -> None:
        """Begin what waits, as far as its turn has come, and read the connection when there is room again."""
        if self.state == CLOSED or self._is_going_on:  # a command was done at once: the loop below takes the next
            return
        session, waiting = self._session, self._waiting
        self._is_going_on = True
        try:
            while waiting and self.state not in (BUSY, FINISHED, CLOSED) and not session.is_slow:
                if self.state == SENDING and type(waiting[0]) is not commands.Send:
                    break
                in_context(session.log_context, self._take, waiting.popleft())
        finally:
            self._is_going_on = False
        if self.is_held and not session.is_slow and self._sending + len(waiting or ()) < INBOX // 2:
            self.is_held = False
            session.connection.resume_reading()

    def _take(self, command: commands.Command) -> None:
        """The turn of one that waited has come."""
        if type(command) is commands.Send and self.state != NEW:
            self._send(command)
        else:
            self._begin(command)

    def _hold(self) -> None:
        if not self.is_held:
            self.is_held = True
            self._session.connection.pause_reading()

    def finish(self) -> None:
        """Take no more: what was begun is answered, and the rest is for another connection to ask again."""
        if self.state != CLOSED:
            self.state = FINISHED
        self._waiting = None

    def close(self) -> None:
        """The session is over."""
        self.state = CLOSED
        self._waiting = None
        del self._session  # a circle, which only the garbage collector would find


class Session(Pingable):
    """One connection. Its transport calls login() or await_connect(), then on_frame() and what it sees of the peer."""

    __slots__ = (
        "_commands",
        "_dialect",
        "_expires",
        "_heard",
        "_pace",
        "_proof",
        "_slot",
        "_timer",
        "_wheel",
        "chat",
        "since",
    )

    def __init__(self, chat: Chat, connection: IConnection, dialect: Dialect) -> None:
        super().__init__(connection, dialect.encoder)
        self.chat = chat
        self.since = chat.clock.seconds()
        self._dialect = dialect
        self._commands = CommandQueue(self)
        self._proof = DeliveryProof(chat.proof_queue)
        self._pace = Pace()
        self._heard = False  # a sign of life, since the last beat
        self._wheel = chat.heartbeat.wheel()
        self._slot = self._wheel.add(self)
        self._expires: Token | None = None
        self._timer: IDelayedCall | None = None

    @property
    def number(self) -> int:
        """Which session it is, for operators and logs."""
        return self.connection.number

    # Logging in

    def await_connect(self) -> None:
        """The connection's URL held no token, so the client has to log in by its first frames, and soon."""
        if seconds := self.chat.limits.handshake_seconds:
            self._timer = self.chat.clock.callLater(seconds, self._is_late)

    def _is_late(self) -> None:
        if self._commands.state == NEW:  # else a token is being checked: the login is a matter of our own pace
            self.chat.counters.refused["handshake-seconds"] += 1
            self.end(close_codes.BAD_CONNECT)

    def login(self, token: Token, checked: float, device: str) -> None:
        """The token in the connection's URL was found good at `checked` (clock). What is received meanwhile waits."""
        self._commands.run(self._enter(Login(token, checked, device)))

    async def _enter(self, login: Login) -> None:
        """Enter the hub, tell the client where it stands, and listen to the member's rooms."""
        if self._commands.state == CLOSED:
            return
        self._stop_timer()
        self.device = check_text_of("device", login.device, NAME_BYTES)
        self.mid, self.token, self._expires = login.token.mid, login.token.digest, login.token
        self.opening = Opening()  # also if it is not let in: failed() asks
        first = self.chat.hub.enter(self, login.checked)
        _log.debug(
            "{member} is connected by {protocol}", peer=self.connection.peer, member=self.mid, device=self.device,
            protocol=self.encoder.name,
        )  # fmt: skip
        memberships, joined = await self.chat.hub.memberships.open(self)
        if self._commands.state == CLOSED:
            return
        with self.chat.outbox.corked():
            listen(self.chat, self, memberships, joined, login.resume, self._wheel.interval)
        if first:
            for room in self.rooms:
                self.chat.hub.presence(room.rid, self.mid, True, but=self)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # Commands

    def on_frame(self, payload: bytes, binary: bool) -> None:
        """A whole message came in. Answers go out in the order of the commands."""
        self._heard = True
        try:
            command = self._dialect.decode(payload, binary)
        except HangUpError as over:
            self._hang_up(over)
            return
        if command is not None:
            self._commands.receive(command)

    def receive(self, command: commands.Command) -> None:
        """A command came in, without a frame."""
        self._heard = True
        self._commands.receive(command)

    async def perform(self, command: commands.Command) -> None:
        """Carry out a command that is not a send."""
        if self.mid:
            for event in await self._dialect.answer(self.chat, self, command):
                self.send_event(event)
        elif (login := await self._dialect.log_in(self.chat, self, command)) is not None:
            await self._enter(login)

    def failed(self, failure: Failure, ref: commands.Ref) -> None:
        """A command, or the login, was not carried out."""
        if isinstance(failure.value, HangUpError):
            self._hang_up(failure.value)
            return
        error = as_error(failure)
        if error.code == "internal":
            _log.failure("a command of {peer} failed", failure, peer=self.connection.peer, session=self.number)
        self.refuse(ref, error)
        if not self.mid or self.opening is not None:  # there is no going on without a login
            endings = {"unauthorized": close_codes.UNAUTHORIZED, "bad_request": close_codes.BAD_CONNECT}
            self.end(endings.get(error.code, close_codes.BUSY))

    def refuse_bad(self, command: commands.Bad) -> None:
        """A frame could not be understood."""
        self.refuse(command.ref, command.error)
        if not self.mid:
            self.end(close_codes.BAD_CONNECT)

    def refuse(self, ref: commands.Ref, error: MercuryError) -> None:
        """Answer a command with an error."""
        self.chat.counters.error(error)
        self.send_event(events.Error(ref=ref, code=error.code, reason=error.reason, retry_after=error.retry_after))

    def answer_send(self, ref: commands.Ref, outcome: Outcome | MercuryError) -> None:
        """A send was committed, or refused by the store."""
        if isinstance(outcome, MercuryError):
            self.refuse(ref, outcome)
        elif (entry := outcome.entry) is not None and self.encoder.acknowledges:
            event = events.SendOk(ref=ref, id=entry.id, seq=entry.seq, duplicate=outcome.duplicate)
            if data := self._dialect.encode(event):  # send_event(), without the call: there is one for each message
                self.chat.outbox.put((self,), data)

    # What the client is told

    def send_event(self, event: events.Event) -> None:
        if data := self._dialect.encode(event):
            self.chat.outbox.put((self,), data)

    def send_event_in(self, rid: str, event: events.Event) -> None:
        if data := self._dialect.encode_in(rid, event):
            self.chat.outbox.put((self,), data)

    def write(self, data: bytes) -> None:
        self._proof.written(self)
        self.connection.write(data)

    def hears(self, rid: str) -> bool:
        return self._dialect.hears(rid)

    def encoder_in(self, rid: str) -> IFrameEncoder:
        return self._dialect.encoder_in(rid)

    def left(self, rid: str) -> None:
        if data := self._dialect.left(rid):
            self.chat.outbox.put((self,), data)

    def caught_up(self, room: LiveRoom) -> None:
        self.send_event_in(room.rid, events.CaughtUp(room.rid, room.head))

    def catch_up(self, cause: Cause) -> None:
        self.chat.catch_up.start(self, cause)

    # The peer

    def slow(self) -> None:
        """The peer's socket is full: nothing live until drained(), and nothing is read from it either."""
        self.is_slow = True
        self.chat.counters.slowed += 1
        self._pace.filled(self.connection.bytes_taken())
        for room in self.rooms:
            room.fall_behind(self)
        self.connection.pause_reading()

    def drained(self) -> None:
        """The socket has room again: the log is read from where the live feed was left."""
        self.is_slow = False
        if not self._commands.is_held:
            self.connection.resume_reading()
        self._commands.go_on()
        self.catch_up("slow")

    def beat(self) -> None:
        connection, pace = self.connection, self._pace
        if self._expires is not None and self.chat.tokens.expired(self._expires):
            self.end(close_codes.UNAUTHORIZED)
        elif self.is_slow:
            if pace.stall(connection.bytes_taken(), self._wheel.turn) >= self.chat.limits.drain_seconds:
                self.end(close_codes.TOO_SLOW)
        elif self._wheel.interval and not self._commands.is_held:
            heard, self._heard = self._heard, False
            if pace.silence(heard) >= MISSED:
                self.end(close_codes.GONE)
            else:
                self._proof.ping(self)

    def prove(self) -> bool:
        return self._proof.prove(self)

    def pong(self, payload: bytes) -> None:
        """The peer answered a ping."""
        self._heard = True
        for room, seq in self._proof.pong(self, payload):
            self.delivered(room, seq)

    def delivered(self, room: LiveRoom, seq: int) -> None:
        if seq > self.rooms.get(room, seq):
            self.rooms[room] = seq
            self.chat.marks.delivered(room.rid, self.mid, self.device, seq)

    # The end

    def finish(self) -> None:
        self._commands.finish()

    def end(self, why: CloseReason) -> None:
        if last := self._dialect.farewell(why):
            self.connection.write(last)
        self.connection.close(why.code, why.reason)
        self._leave()  # at once: what a peer sends while it is being closed counts for nothing

    def _hang_up(self, over: HangUpError) -> None:
        """Write what is left to say, and close."""
        if self._commands.state >= FINISHED:
            return
        if over.counted is not None:
            self.chat.counters.errors[over.counted] += 1
        said, self.out[:] = b"".join(self.out), []
        self.connection.write(said + over.last)
        self.connection.close(over.code, "")
        self._leave()

    def closed(self, code: int) -> None:
        """The connection is gone, ended with this code. May come at any time, also without a login."""
        self._leave()
        _log.debug(
            "the session of {peer} has ended with {code}", peer=self.connection.peer, member=self.mid,
            protocol=self.encoder.name, code=code, session=self.number,
        )  # fmt: skip

    def _leave(self) -> None:
        if self._commands.state != CLOSED:
            self._commands.close()
            self._stop_timer()
            self._wheel.remove(self, self._slot)
            self.chat.hub.exit(self)
            self.out.clear()
