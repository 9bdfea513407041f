"""What the core needs from the outside, as zope interfaces. The docstrings are the contract: order, atomicity, failure.

tests/contracts/store.py holds every IStore to it. The core imports neither a driver nor Autobahn nor Klein; what is
behind these interfaces is chosen in mercury/node/build.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from mercury.domain.counters import Histogram, Load
from mercury.domain.events import Event
from mercury.domain.model import (
    Account,
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
from mercury.domain.signals import Signal
from mercury.errors import MercuryError

# zope.interface methods have no self and no body.
# mypy-zope reads them as they stand.


class IStore(Interface):
    """Where rooms, logs, memberships and tokens are kept. What it says is the truth.

    Every Deferred fails with MercuryError only: `unavailable` (with retry_after) when the engine cannot be reached or
    cannot write. After a write failed like that, it is unknown whether it was done. Every call has a timeout, except
    for writes to this machine's own disk; the watchdog ends a node whose disk never answers (MercuryService.is_well).
    What a call has returned as stored is durable (G1), and every later call, from any node, sees it.

    With keys, the text of messages is stored encrypted. A message that cannot be read comes as an Entry with `lost`,
    and no call fails because of it; but its cid, sent again, gives conflict, since the texts cannot be compared.
    """

    epoch: str = Attribute(
        "Drawn when the store was created, known after open(). Another epoch means that the data are others."
    )
    load: Sequence[Load] = Attribute("How busy it is: one Load for each pool of connections, none before open().")

    rooms_per_member: int = Attribute("How many rooms a member may be in, 0 for any number. It may be set at any time.")

    def open() -> Deferred[None]:
        """Connect, create or migrate the schema. Fails with MercuryError when the engine cannot be used."""

    def close() -> Deferred[None]:
        """Finish the calls in progress and disconnect. Calls after that fail with unavailable."""

    def ping() -> Deferred[None]:
        """Fire if the store can be read now. For readiness."""

    def begin_anew() -> Deferred[int]:
        """After a backup was restored, while no node uses the store: draw another epoch, which `epoch` is from then on.

        And skip all ids (of entries, accounts and friendships) that may have been given out since the backup was made:
        ids go on from the number returned. That is the time in microseconds since 1970, which no store can reach by
        counting, or the last id plus one if that is more.
        """

    # The log

    def append(drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        """Store a batch in one transaction: all that is not refused is durable when this fires, or nothing is.

        One answer for each draft, in the order given. A draft that is refused (its answer is a MercuryError) does not
        affect the others. Entries of one room get consecutive `seq`s in the order of the batch; every entry gets a new
        `id`, above all ids of its room. `ctime` becomes the entries' time. No entry can be read before all entries of
        its room with a lower seq can.

        message: refused with forbidden unless `mid` is SYSTEM or in the room at that place of the log (a join or leave
        earlier in the batch counts), with not_found if there is no such room (asked before membership). A cid that the
        same mid used in the same room before, or earlier in this batch, gives the first one's outcome with
        duplicate=True if the text is the same, else conflict; cids are forgotten with their message, not before.

        joined: the room and the members are created if necessary. The entry names those who were not in yet, in the
        order given, each once; if there are none, no entry is made. A new member's read mark is at the entry; their
        unread count is 0. Refused with too_large, as a whole, if a member would be in more rooms than allowed.

        left: the entry names those who were in; if there are none, no entry is made; not_found without such a room.
        Their read marks and cursors in this room are dropped.
        """

    def read(rid: str, after: int, limit: int) -> Deferred[Slice]:
        """The log's entries with seq > after, at most `limit`, in order. An unknown room is an empty one, head 0."""

    def history(rid: str, before: int | None, after: int | None, limit: int) -> Deferred[tuple[list[Entry], bool]]:
        """At most `limit` messages (no joins or leaves), in order of seq, and whether there are more that way.

        With `after`: the first ones with seq > after, and `before` bounds them from above if given. Else the last ones
        with seq < before, or the room's last ones.
        """

    def locate(id: int, rid: str | None) -> Deferred[tuple[str, int] | None]:
        """Where a message id is: the room, and the seq below which the room's older entries are.

        With a room: the lowest seq of that room whose id is `id` or greater, or head + 1 if there is none. Without:
        the room and seq of the message that has this very id; None if no message has it.
        """

    def reseal(rid: str, step: Callable[[Resealed], Deferred[None]]) -> Deferred[None]:
        """Encrypt the texts of a room's messages with the store's first key, unless they are; also those in clear.

        It works in short steps, so no other call waits for all of it. After each step it calls `step` with what was
        done, and waits for what that returns. A message that is deleted meanwhile stays deleted; one that is stored
        meanwhile may be left out. Any number of nodes and calls may do this at once; repeat a call that was
        interrupted. Nothing happens if there is no such room, or without keys.
        """

    # Rooms and members

    def heads(rids: Sequence[str]) -> Deferred[dict[str, int]]:
        """The last seq of each of these rooms. Unknown rooms are left out. One round trip however many rooms."""

    def room(rid: str) -> Deferred[Room | None]:
        """One room, or None."""

    def rooms(after: str, limit: int) -> Deferred[list[Room]]:
        """Rooms whose name is greater than `after`, in the order of their names' UTF-8 bytes."""

    def delete_room(rid: str) -> Deferred[bool]:
        """Remove a room that has no members, and its log, in one transaction. False if there is no such room.

        Fails with conflict while it has members. They have to leave first, so that those who follow the log see it.

        If a room is created again under this name, its seqs go on from the old head, which is its floor: so nobody who
        remembers the old log takes the new one for it.
        """

    def members(rid: str, after: str, limit: int) -> Deferred[list[str]]:
        """Members of a room with a name greater than `after`, in the order of the names' UTF-8 bytes."""

    def is_member(mid: str) -> Deferred[bool]:
        """Whether this member exists: they once got a token or were put into a room."""

    def memberships(mid: str, device: str) -> Deferred[list[Membership]]:
        """All rooms of a member, ordered by name, with this device's cursors. Its cost does not grow with the logs."""

    # Marks

    def move_cursors(cursors: Sequence[Cursor]) -> Deferred[None]:
        """Store delivery cursors, in one transaction. Those of non-members are dropped.

        A cursor never moves backwards, nor past the room's head, above which nothing can have been delivered.
        """

    def move_reads(marks: Sequence[ReadMark]) -> Deferred[list[int | None]]:
        """Move read marks forward, at most to the room's head, in one transaction.

        Answers for each, in order, the mark as it then stands if this moved it, else None (it was there already, or
        the member is not in the room).
        """

    # Tokens

    def put_token(token: Token, keep: int) -> Deferred[None]:
        """Store a token, and create its member if necessary. `keep` (at least 1) of the member's tokens remain: this
        one, and of the others those that expire last."""

    def token(digest: bytes) -> Deferred[Token | None]:
        """The token with this digest, expired or not."""

    def tokens(mid: str) -> Deferred[list[Token]]:
        """All tokens of a member, expired or not, in no particular order: at most as many as put_token() keeps."""

    def drop_token(digest: bytes) -> Deferred[Token | None]:
        """Remove one token and return it; None if it is not there."""

    def drop_tokens(mid: str) -> Deferred[int]:
        """Remove all tokens of a member; how many there were."""

    def sweep(now: int, idle: int, devices: int) -> Deferred[None]:
        """Keep the tables bounded: drop expired tokens, the cursors of devices that did not move for `idle`
        microseconds, and of each member's devices all but the `devices` that moved last. A dropped cursor is as if it
        had never been there.

        What remains of deleted rooms is removed, too. It works in short steps, so no other call waits for all of it.
        """


class IAccounts(Interface):
    """Where the accounts of people who log in with a password are kept. Every IStore is one, too; its rules hold here.

    tests/contracts/accounts.py holds every store to it.
    """

    def add_account(name: str, key: str, secret: str) -> Deferred[Account]:
        """Make an account. `key` is what names are compared by: fails with conflict if another account has it.

        The caller makes sure that `name` and `key` have at most 760 bytes in UTF-8, and `secret` at most 1,024.
        """

    def account(key: str) -> Deferred[Account | None]:
        """The account whose name has this key."""

    def account_of(id: int) -> Deferred[Account | None]:
        """The account with this id. Any integer may be asked about."""

    def change_secret(id: int, secret: str) -> Deferred[None]:
        """Replace an account's hash. Nothing happens if there is no such account."""

    def add_friend(id: int, friend: int, most: int) -> Deferred[int]:
        """Make friends of two accounts, which exist and differ. The friendship's number; the same if they are friends
        already, whichever of them asks.

        too_large if that would give either of them more than `most` friends.
        """

    def friends(id: int) -> Deferred[list[int]]:
        """The ids of an account's friends, the oldest friendship first."""

    def put_handed(mid: str, device: str, handed: Sequence[Handed]) -> Deferred[None]:
        """Remember what was handed over to a device without proof that it arrived. It replaces what was remembered
        before; an empty list removes it.

        For sweep() this counts as a move of the device, even if it has no cursor; it is dropped with the cursors.
        """

    def handed(mid: str, device: str) -> Deferred[list[Handed]]:
        """What the last put_handed() has stored, in its order."""


class IBus(Interface):
    """How nodes that share a store tell each other what happens. Delivery is at most once, in any order: the store is
    the truth.

    What the bus loses costs only time: an entry's seq shows that something is missing, and the listener's invalidate()
    is called when something may be. No method raises. Nothing waits for the bus, except in subscribe().
    """

    node: str = Attribute("This node's name among the nodes: drawn anew at each start.")
    is_up: bool = Attribute(
        "Whether what others publish gets here, as far as is known; a silent loss is noticed within 15 seconds, "
        "or without a Redis when this node's lease is over. "
        "While it is False, look at the heads of the rooms served here, once a second; invalidate(None) follows "
        "when it is True again."
    )

    lags: Histogram = Attribute("Seconds that what this node published took to come back to it, where it looks.")

    def open(listener: IBusListener) -> Deferred[None]:
        """Begin to call the listener. Fires after the first attempt to connect, even if that failed."""

    def close() -> Deferred[None]:
        """Say goodbye to the other nodes, and stop calling the listener."""

    def publish(entries: Sequence[Entry]) -> None:
        """Tell the other nodes of entries that this one has committed, those of each room in the order of seq.

        Call it in the order of commits. If something cannot be sent now, the other nodes are told to invalidate those
        rooms as soon as they can be reached.
        """

    def publish_signal(rid: str | None, signal: Signal) -> None:
        """Send a signal to the nodes that have subscribed to a room, or to all nodes (None). It may be lost.

        Came is made up for as entries are.
        """

    def subscribe(rid: str) -> Deferred[None]:
        """Receive what is published to a room. When this fires, all that is published from then on gets here: read the
        log's head after it.

        It never fails, and fires within two seconds in any case. If the bus is down then, or too slow, the room is
        subscribed to later, and the listener's invalidate() is called for it at that time.
        """

    def unsubscribe(rid: str) -> None:
        """Receive no more of a room. What is on its way may still come."""


class IBusListener(Interface):
    """What a bus calls at its node. Exceptions are logged, and do no other harm.

    What this node has published does not come back to it, except entries of a store that publishes by itself.
    """

    def entries_received(entries: Sequence[Entry]) -> None:
        """Committed entries, those of each room in the order of seq. Some may be known already; earlier ones may be
        missing."""

    def signal_received(node: str, signal: Signal) -> None:
        """A signal from another node."""

    def invalidate(rids: Sequence[str] | None) -> None:
        """In these rooms (None: in all that are subscribed to) entries may have been stored that were not received.

        Whatever the list, even if it is empty: members connected here may have been put into rooms besides these.
        """

    def node_up(node: str) -> None:
        """Another node is there. Neither node knows yet who is connected to the other."""

    def node_down(node: str) -> None:
        """A node stopped, or nothing came from it for five seconds, or the bus is down. It is unknown who is connected
        to it, until node_up() is called for it again."""


class IFrameEncoder(Interface):
    """Bytes for one kind of connection (a protocol on a framing). Connections of a kind share one wire object.

    Shared, so that a batch is encoded once for all of them. Both methods are pure.
    """

    name: str = Attribute("The protocol's name, for operators.")
    acknowledges: bool = Attribute("Whether it has frames for a SendOk. Else nobody need make one.")

    def entries(entries: Sequence[Entry]) -> bytes:
        """The frames of these log entries, joined; empty when the protocol has no frame for any of them."""

    def event(event: Event) -> bytes:
        """The frames of this event, joined; empty when the protocol has none for it."""


class IDirectWriter(Interface):
    """The way straight to a connection's socket. What the socket does not take is for IConnection.write(), before
    anything else is sent."""

    send: Callable[[bytes], int] = Attribute("How many of these bytes the socket took; OSError if it took none.")
    sqe: bytes = Attribute("The io_uring submission of such a send, complete but for the bytes' address and number.")


class IPeer(Interface):
    """Whom something is written for, as the outbox and the log see it. No method raises."""

    peer: str = Attribute("The client's address, for operators and logs.")
    number: int = Attribute("Which one it is of all that this process has had, for operators and logs.")
    direct: IDirectWriter | None = Attribute("Its socket, while nothing waits before what is sent to it; else None.")

    def abort() -> None:
        """End the connection now."""


class IConnection(IPeer):
    """One client's connection, as its session sees it. No method raises, whatever has become of the peer."""

    def write(data: bytes) -> None:
        """Send bytes that an encoder made. When the peer does not read, Session.slow() follows; more may be written."""

    def ping(payload: bytes) -> None:
        """Ask for proof that all written before has arrived: Session.pong(payload) follows."""

    def close(code: int, reason: str) -> None:
        """End the connection politely; Session.closed() follows, at once or later."""

    def pause_reading() -> None:
        """Stop reading from the peer until resume_reading()."""

    def resume_reading() -> None:
        """Read again."""

    def bytes_taken() -> int:
        """A count of what the peer has taken so far. It stands still when the peer does not read."""
