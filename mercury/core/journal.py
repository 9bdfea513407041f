"""The journal: the only way into a room's log.

Drafts are appended in batches (group_commit.py), one transaction each. When a batch is committed, each sender gets its
answer and then all that was stored goes to the hub, in commit order; nothing is told to anybody before (G1, G2).
Answers and deliveries of one batch leave through the outbox together: one write a connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.hub import Hub
from mercury.core.delivery.outbox import Outbox
from mercury.core.delivery.peers import Peers
from mercury.core.group_commit import Done, GroupCommit, as_deferred
from mercury.core.page_size import PAGE_BYTES
from mercury.domain.counters import Counters
from mercury.domain.model import Draft, Entry, Outcome
from mercury.errors import MercuryError
from mercury.interfaces import IBus, IStore

#: Drafts in one transaction at the most, and no more than PAGE_BYTES of them: a batch may be one room's, and then each
#: of its members has it waiting at their socket while they do not read.
BATCH = 1024
WAITING = 16384  # drafts that may wait for it
WAITING_BYTES = 64 << 20  # and the text in them, in characters


class Journal:
    """Appends to logs and hands what was committed to the hub. `is_open`: until close(). `sizes`, `seconds`: how many
    drafts went into the batches, and how long the store took for these.
    """

    def __init__(
        self,
        clock: IReactorTime,
        store: IStore,
        hub: Hub,
        peers: Peers,
        bus: IBus,
        outbox: Outbox,
        counters: Counters,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._hub = hub
        self._peers = peers
        self._bus = bus
        self._counters = counters
        self._wall = wall
        self.is_open = True
        self._batches: GroupCommit[Draft, Outcome] = GroupCommit(
            clock,
            self._write,
            most=BATCH,
            waiting=WAITING,
            most_size=PAGE_BYTES,
            waiting_size=WAITING_BYTES,
            around=outbox.corked,
            settled=self._committed,
        )
        self.sizes, self.seconds = self._batches.sizes, self._batches.seconds

    @property
    def depth(self) -> int:
        """How many drafts wait for the next batch."""
        return self._batches.depth

    def close(self) -> None:
        """Take nothing more: what is submitted from now on is refused with unavailable."""
        self.is_open = False

    def check_open(self) -> None:
        """Raises unavailable after close()."""
        if not self.is_open:
            raise MercuryError("unavailable", "the server is stopping", 1.0)

    def submit(self, draft: Draft, done: Done[Outcome]) -> None:
        """Append a draft; `done` gets its Outcome after the commit, or the error that refused it.

        Raises busy, and unavailable after close().
        """
        if not self.is_open:
            self.check_open()
        self._batches.add(
            draft, done, len(draft.text) or sum(map(len, draft.members))
        )  # what has a text has no members

    def append(self, draft: Draft) -> Deferred[Outcome]:
        """submit() with a Deferred. Cancelling it does not take the draft back."""
        return as_deferred(lambda done: self.submit(draft, done))

    def idle(self) -> Deferred[None]:
        """Fires when all that was submitted has been answered and delivered."""
        return self._batches.idle()

    def write_age(self) -> float:
        """Age of the write in progress, in seconds; 0 when idle."""
        return self._batches.write_age()

    def _write(self, drafts: Sequence[Draft]) -> Deferred[list[Outcome | MercuryError]]:
        return self._store.append(drafts, int(self._wall() * 1_000_000))

    def _committed(self, drafts: Sequence[Draft], answers: Sequence[Outcome | MercuryError]) -> None:
        """The senders have their answers: deliver what was stored, here and to the other nodes."""
        entries: list[Entry] = []
        joined: list[Entry] = []
        uncertain: list[Draft] = []
        for draft, answer in zip(drafts, answers, strict=True):
            if isinstance(answer, Outcome):
                if answer.duplicate:
                    self._counters.duplicates += 1
                elif answer.entry is not None:
                    entries.append(answer.entry)
                    self._counters.entries[answer.entry.kind] += 1
                    if answer.entry.kind == "joined":
                        joined.append(answer.entry)
            elif answer.code in ("unavailable", "internal"):
                uncertain.append(draft)
        self._hub.deliver_corked(entries)
        if entries:
            self._bus.publish(entries)
        for entry in joined:
            self._peers.members_joined(entry)
        if uncertain:  # they may have been stored all the same: look at the log when the store is back
            self._hub.doubt(uncertain)
