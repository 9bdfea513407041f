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
    """Where rooms, logs, members' places and tokens are kept: the truth.

    Every Deferred fails with MercuryError only: `unavailable` (with retry_after) when the engine cannot be reached or
    cannot write; after such a failure of a write, whether it was done is unknown. No call waits without a bound, but
    for a write to this machine's own disk: that a node does not wait for that for ever is seen to by its watchdog
    (MercuryService.is_well).
    What a call has returned as stored is durable (G1) and is seen by every later call, from any node.

    With keys, the text of messages is stored encrypted. One that cannot be read comes as an Entry with `lost`, and no
    call fails for it; but a cid that it was sent with gives conflict, since what was sent cannot be compared.
    """

    epoch: str = Attribute("Drawn when the store was created, known after open(); another epoch is another truth.")
    load: Sequence[Load] = Attribute("How busy it is: one for each pool of its connections, none before open().")

    rooms_per_member: int = Attribute("How many rooms a member may be in, 0 for any number. It may be set at any time.")

    def open() -> Deferred[None]:
        """Connect, create or migrate the schema. Fails with MercuryError when the engine cannot be used."""

    def close() -> Deferred[None]:
        """Finish what runs and let go of the engine. Calls after that fail with unavailable."""

    def ping() -> Deferred[None]:
        """Fire if the store can be read now. For readiness."""

    def begin_anew() -> Deferred[int]:
        """After a backup was put back, and while no node uses the store: draw another epoch, which is `epoch` then.

        And give out no id again, of an entry, an account or a link of friends, that may have been given out since the
        backup was made: ids go on from the number returned. That is the time in microseconds since 1970, which no
        store can have come to by counting, or the last id and one if that should be more.
        """

    # The log

    def append(drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        """Store a batch in one transaction: all that is not refused is durable when this fires, or nothing is.

        One answer a draft, in the order given; a refused draft (an answer that is a MercuryError) takes nothing from
        the others. Entries of one room get consecutive `seq`s in the order of the batch; every entry gets a new `id`,
        above all ids of its room. `ctime` becomes the entries' time. No entry can be read before all with a lower seq
        of its room can.

        message: refused with forbidden unless `mid` is SYSTEM or in the room at that place of the log (a join or leave
        earlier in the batch counts), with not_found if there is no such room (asked before membership). A cid that the
        same mid used in the same room before, or earlier in this batch, gives the first one's outcome with
        duplicate=True if the text is the same, else conflict; cids are forgotten with their message, not before.

        joined: the room and the members come into being if need be. The entry names those who were not in yet, in the
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
        """Where a message id stands: the room, and the seq below which its older entries are.

        With a room: the lowest seq of that room whose id is `id` or greater, or head + 1 if there is none. Without:
        the room and seq of the message that has this very id; None if no message has it.
        """

    def reseal(rid: str, step: Callable[[Resealed], Deferred[None]]) -> Deferred[None]:
        """Encrypt what a room's messages say with the store's first key, where that is not so; also what is in clear.

        In short steps: no other call waits for the whole of it. After each step `step` is told what was done, and what
        it returns is waited for. A message that goes meanwhile stays gone, and what comes meanwhile may be left out.
        Any number of nodes and of these calls may be at it at once; one that is broken off is made again. Nothing
        happens without such a room, or without keys.
        """

    # Rooms and members

    def heads(rids: Sequence[str]) -> Deferred[dict[str, int]]:
        """The last seq of each of these rooms. Unknown rooms are left out. One round trip however many rooms."""

    def room(rid: str) -> Deferred[Room | None]:
        """One room, or None."""

    def rooms(after: str, limit: int) -> Deferred[list[Room]]:
        """Rooms whose name is greater than `after`, in the order of their names' UTF-8 bytes."""

    def delete_room(rid: str) -> Deferred[bool]:
        """Remove a room that nobody is in with its log, in one transaction. False if there was none.

        Fails with conflict while somebody is in: they leave first, by the log, so that whoever follows it sees them go.

        A room that comes into being again under the name goes on from the old head: its floor is there, so that nobody
        who remembers the old log mistakes the new one for it.
        """

    def members(rid: str, after: str, limit: int) -> Deferred[list[str]]:
        """Members of a room with a name greater than `after`, in the order of the names' UTF-8 bytes."""

    def is_member(mid: str) -> Deferred[bool]:
        """Whether this member has come into being, by a token or by a room."""

    def memberships(mid: str, device: str) -> Deferred[list[Membership]]:
        """All rooms of a member, ordered by name, with `delivered` of this device. Flat in the length of the logs."""

    # Marks

    def move_cursors(cursors: Sequence[Cursor]) -> Deferred[None]:
        """Store delivery cursors, in one transaction. Those of non-members are dropped.

        One never moves backwards, nor past the room's head: nothing can have been delivered from there.
        """

    def move_reads(marks: Sequence[ReadMark]) -> Deferred[list[int | None]]:
        """Move read marks forward, at most to the room's head, in one transaction.

        Answers for each, in order, the mark as it then stands if this moved it, else None (it was there already, or
        the member is not in the room).
        """

    # Tokens

    def put_token(token: Token, keep: int) -> Deferred[None]:
        """Store a token; its member comes into being. `keep` of one member's tokens remain, which is 1 at least: this
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
        """Keep the tables bounded: drop expired tokens, cursors of devices that did not move for `idle` microseconds,
        and of each member's devices all but the `devices` that moved last. A dropped cursor is as if never there.

        What deleted rooms have left is removed, too. All that in short steps: no other call waits for the whole of it.
        """


class IAccounts(Interface):
    """Where the accounts of those who log in with a password are kept. Every IStore is one, too, under the same rules.

    tests/contracts/accounts.py holds every store to it.
    """

    def add_account(name: str, key: str, secret: str) -> Deferred[Account]:
        """Make an account. `key` is what its name is compared by: conflict if another account has it.

        `name` and `key` are of at most 760 bytes of UTF-8, and `secret` of at most 1,024: the caller sees to it.
        """

    def account(key: str) -> Deferred[Account | None]:
        """The account whose name has this key."""

    def account_of(id: int) -> Deferred[Account | None]:
        """The account with this id. Any integer may be asked about."""

    def change_secret(id: int, secret: str) -> Deferred[None]:
        """Replace an account's hash. Nothing happens if there is no such account."""

    def add_friend(id: int, friend: int, most: int) -> Deferred[int]:
        """Link two accounts, which exist and are not the same; the link's number, again the same whoever of them asks.

        too_large if that would give either of them more than `most` friends.
        """

    def friends(id: int) -> Deferred[list[int]]:
        """Those whom an account is linked with, the oldest link first."""

    def put_handed(mid: str, device: str, handed: Sequence[Handed]) -> Deferred[None]:
        """Remember what was handed over to a device and is not proved to have arrived, in place of what was remembered
        before; nothing is remembered of it by an empty list.

        For sweep() the device has moved by that, whether it has a cursor or not, and is dropped with both.
        """

    def handed(mid: str, device: str) -> Deferred[list[Handed]]:
        """What put_handed() has last remembered, in its order."""


class IBus(Interface):
    """How the nodes that share a store wake each other. At most once, in any order: the store is the truth.

    Whatever the bus loses costs time only, since an entry's seq shows that something is missing, and the listener is
    told to invalidate() its rooms when something may be. No method raises; nothing waits for the bus but subscribe().
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
        """Begin; tell the listener from now on. Fires when a first connection was tried, whatever came of it."""

    def close() -> Deferred[None]:
        """Say goodbye to the other nodes, and tell the listener nothing any more."""

    def publish(entries: Sequence[Entry]) -> None:
        """Tell the other nodes of entries that this one has committed: of each room in the order of seq.

        Call it in commit order. What cannot be sent now is made up for by telling the others to invalidate those rooms,
        as soon as that can be sent.
        """

    def publish_signal(rid: str | None, signal: Signal) -> None:
        """Tell the nodes that have subscribed to a room, or all nodes, something that is not stored. It may be lost.

        Came is made up for as entries are.
        """

    def subscribe(rid: str) -> Deferred[None]:
        """Hear of a room. When this fires, whatever is published from then on comes here: read the log's head after it.

        It fires in any case within two seconds. If the bus is down by then, or that slow, the room is subscribed to
        when it is back, and the listener told to invalidate it then. Never fails.
        """

    def unsubscribe(rid: str) -> None:
        """Hear no more of a room; what is on its way still may come."""


class IBusListener(Interface):
    """What a bus tells a node. What a method raises is logged and harms nothing else.

    What this node published does not come back to it, except for entries of a store that publishes by itself.
    """

    def entries_received(entries: Sequence[Entry]) -> None:
        """Committed entries of one room, in the order of seq. They may be known here; some before may be missing."""

    def signal_received(node: str, signal: Signal) -> None:
        """A signal of another node."""

    def invalidate(rids: Sequence[str] | None) -> None:
        """In these rooms, or in all that are subscribed to, something may have been stored that was not told here.

        With any rooms, or none: somebody who is connected here may have been put into others.
        """

    def node_up(node: str) -> None:
        """Another node is there: it knows nothing yet of who is connected here, nor this one of who is there."""

    def node_down(node: str) -> None:
        """A node stopped, or was not heard of for five seconds, or the bus is down: whoever was connected there is not
        known to be. It is there again when node_up() says so."""


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


class IConnection(Interface):
    """One client's connection, as its session sees it. No method raises, whatever has become of the peer."""

    peer: str = Attribute("The client's address, for operators and logs.")
    number: int = Attribute("Which one it is of all that this process has had, for operators and logs.")
    direct: IDirectWriter | None = Attribute("Its socket, while nothing waits before what is sent to it; else None.")

    def write(data: bytes) -> None:
        """Send bytes that an encoder made. When the peer does not read, Session.slow() follows; more may be written."""

    def ping(payload: bytes) -> None:
        """Ask for proof that all written before has arrived: Session.pong(payload) follows."""

    def close(code: int, reason: str) -> None:
        """End the connection politely; Session.closed() follows, at once or later."""

    def abort() -> None:
        """End the connection now."""

    def pause_reading() -> None:
        """Stop reading from the peer until resume_reading()."""

    def resume_reading() -> None:
        """Read again."""

    def bytes_taken() -> int:
        """A count of what the peer has taken so far. It stands still when the peer does not read."""
