"""IStore.append on Redis: what lua/append.lua, which decides and stores, is given and answers; and sealing for it.

A text is sealed for its room and seq, and it is the script that gives out seqs. So the node seals for the seqs that it
expects. If a message would get another one, the script stores nothing and answers with the seqs that are due, and the
node seals again. As long as no other node writes into the same rooms, the first attempt succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredLock

from mercury.domain.model import Draft, Entry, Lost
from mercury.errors import Code
from mercury.stores.sealing import Keys, in_base64
from mercury.stores.unavailable import unavailable

KNOWN_ROOMS: Final = 20_000  # whose heads are remembered
TRY_SECONDS: Final = 5.0  # for one batch: whenever it must be sealed again, other nodes have stored theirs


class AppendAnswer(Struct):
    """What became of a draft. `seq`, `id`: those of the new entry, with `members` for a join or leave. `first`: the
    message that was sent with the same cid before. `nothing`: nobody came or went. `error`: why it is refused; `who` is
    the member in too many rooms."""

    seq: int = 0
    id: int = 0
    members: tuple[str, ...] = ()
    first: Entry | None = None
    nothing: bool = False
    error: Code | None = None
    who: str = ""


class SealedDraft(Struct):
    """A message whose text is sealed, in base64, for a seq."""

    rid: str
    mid: str
    text: str
    cid: str | None
    seq: int
    kind: str = "message"
    lost: Lost = "no_key"


class AppendReply(NamedTuple):
    """`stored`: False if a text was sealed for another seq than it would get; then nothing of the batch is stored.
    `answers`: one for each draft."""

    stored: bool
    answers: list[AppendAnswer]


#: Runs the script with a batch and the time of its entries.
RunAppend = Callable[[Sequence[Draft | SealedDraft], int], Deferred[AppendReply]]


class SealingAppender:
    """Seals the texts of batches and has these appended, one batch after the other."""

    def __init__(self, clock: Any, run_append: RunAppend) -> None:
        self._clock = clock
        self._run_append = run_append
        self._turn = DeferredLock()
        self._heads: dict[str, int] = {}

    def append(self, drafts: Sequence[Draft], ctime: int, keys: Keys) -> Deferred[AppendReply]:
        """Fires when the batch is stored. Cancelling the Deferred drops the answers, not the batch."""
        answer: Deferred[AppendReply] = Deferred()
        self._turn.run(lambda: Deferred.fromCoroutine(self._append(drafts, ctime, keys))).chainDeferred(answer)
        return answer

    def idle(self) -> Deferred[None]:
        """Fires when no batch waits for its turn."""
        return self._turn.run(lambda: None)

    async def _append(self, drafts: Sequence[Draft], ctime: int, keys: Keys) -> AppendReply:
        end = self._clock.seconds() + TRY_SECONDS
        seqs = self._expected(drafts)
        sealed: list[Draft | SealedDraft] = list(drafts)
        while True:
            sealed = [_sealed(keys, *one) for one in zip(drafts, seqs, sealed, strict=True)]
            reply = await self._run_append(sealed, ctime)
            self._remember_heads(drafts, reply.answers)
            if reply.stored:
                return reply
            if self._clock.seconds() > end:
                raise unavailable("other nodes write so much to these rooms that this one did not get a turn")
            seqs = [answer.seq or seq for answer, seq in zip(reply.answers, seqs, strict=True)]

    def _expected(self, drafts: Sequence[Draft]) -> list[int]:
        """The seqs that the drafts get if each becomes an entry and nobody else has written."""
        heads: dict[str, int] = {}
        for draft in drafts:
            heads.setdefault(draft.rid, self._heads.get(draft.rid, 0))
        seqs = []
        for draft in drafts:
            heads[draft.rid] += 1
            seqs.append(heads[draft.rid])
        return seqs

    def _remember_heads(self, drafts: Sequence[Draft], answers: Sequence[AppendAnswer]) -> None:
        if len(self._heads) > KNOWN_ROOMS:
            self._heads.clear()
        for draft, answer in zip(drafts, answers, strict=True):
            if answer.seq:
                self._heads[draft.rid] = answer.seq


def _sealed(keys: Keys, draft: Draft, seq: int, before: Draft | SealedDraft) -> Draft | SealedDraft:
    """The draft, sealed for a seq; `before` if that was sealed for the same one."""
    if draft.kind != "message" or (isinstance(before, SealedDraft) and before.seq == seq):
        return before
    text = in_base64(keys.seal(draft.rid, seq, draft.text))
    return SealedDraft(draft.rid, draft.mid, text, draft.cid, seq)
