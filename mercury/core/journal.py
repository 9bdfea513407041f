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
from mercury.core.page_size import PAGE_BYTES, fit
from mercury.domain.counters import Counters
from mercury.domain.model import Draft, Entry, Outcome
from mercury.errors import MercuryError
from mercury.interfaces import IStore

BATCH = 1024  # drafts in one transaction at the most, and no more than PAGE_BYTES of them
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
        outbox: Outbox,
        counters: Counters,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._hub = hub
        self._peers = peers
        self._counters = counters
        self._wall = wall
        self._bytes = 0
        self.is_open = True
        self._batches: GroupCommit[Draft, Outcome] = GroupCommit(
            clock,
            self._write,
            most=BATCH,
            waiting=WAITING,
            fits=self._fit,
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
            raise MercuryError("unavailable", "the server is going away", 1.0)

    def submit(self, draft: Draft, done: Done[Outcome]) -> None:
        """Append a draft; `done` gets its Outcome after the commit, or the error that refused it.

        Raises busy, and unavailable after close().
        """
        self.check_open()
        if self._bytes > WAITING_BYTES:
            raise MercuryError("busy", "too much text is waiting for the store", 1.0, limit="journal")
        self._batches.add(draft, done)
        self._bytes += _size(draft)

    def append(self, draft: Draft) -> Deferred[Outcome]:
        """submit() with a Deferred. Cancelling it does not take the draft back."""
        return as_deferred(lambda done: self.submit(draft, done))

    def idle(self) -> Deferred[None]:
        """Fires when all that was submitted has been answered and delivered."""
        return self._batches.idle()

    def write_age(self) -> float:
        """Age of the write in progress, in seconds; 0 when idle."""
        return self._batches.write_age()

    def _fit(self, drafts: Sequence[Draft]) -> int:
        """A batch may be one room's, and each of its members has it waiting at their socket while they do not read."""
        return len(drafts) if self._bytes <= PAGE_BYTES else fit(map(_size, drafts))

    def _write(self, drafts: Sequence[Draft]) -> Deferred[list[Outcome | MercuryError]]:
        return self._store.append(drafts, int(self._wall() * 1_000_000))

    def _committed(self, drafts: Sequence[Draft], answers: Sequence[Outcome | MercuryError]) -> None:
        """The senders have their answers: deliver what was stored, here and to the other nodes."""
        self._bytes = max(0, self._bytes - sum(map(_size, drafts)))
        entries: list[Entry] = []
        uncertain: list[Draft] = []
        for draft, answer in zip(drafts, answers, strict=True):
            if isinstance(answer, Outcome):
                if answer.duplicate:
                    self._counters.duplicates += 1
                elif answer.entry is not None:
                    entries.append(answer.entry)
                    self._counters.entries[answer.entry.kind] += 1
            elif answer.code in ("unavailable", "internal"):
                uncertain.append(draft)
        self._hub.deliver(entries)
        if entries:
            self._peers.committed(entries)
        if uncertain:  # they may have been stored all the same: look at the log when the store is back
            self._hub.doubt(uncertain)


def _size(draft: Draft) -> int:
    """In characters. What has a text has no members."""
    return len(draft.text) or sum(map(len, draft.members))
