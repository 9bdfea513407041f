"""IStore.append on Redis: lua/append.lua decides and stores; with keys the node has sealed the texts before.

A text is sealed for its place in the log, and the script gives the places. So the node seals for the seqs that it takes
to be next; if another one is due, the script stores nothing and says which, and the node seals for that. As long as no
other node writes into the same rooms, the first try does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredLock

from mercury.domain.model import Draft, Entry, Lost
from mercury.errors import Code, MercuryError
from mercury.stores.redis.link import RETRY_AFTER
from mercury.stores.sealing import Keys, in_base64

KNOWN_ROOMS: Final = 20_000  # whose heads are remembered
TRY_SECONDS: Final = 5.0  # for one batch; each time that it has to be sealed again, other nodes have stored theirs


class AppendAnswer(Struct):
    """What became of a draft, as append.lua says."""

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


#: Runs the script: whether it has stored the batch, and an answer a draft.
Send = Callable[[Sequence[Draft | SealedDraft], int], Deferred[tuple[bool, list[AppendAnswer]]]]


class RedisAppender:
    """Has batches appended, one after the other if texts are sealed."""

    def __init__(self, clock: Any, send: Send) -> None:
        self._clock = clock
        self._send = send
        self._turn = DeferredLock()
        self._heads: dict[str, int] = {}

    def append(self, drafts: Sequence[Draft], ctime: int, keys: Keys) -> Deferred[list[AppendAnswer]]:
        """One answer a draft. Cancelling the Deferred gives up the answers, not the batch."""
        if not keys:
            return self._send(drafts, ctime).addCallback(lambda reply: reply[1])
        answer: Deferred[list[AppendAnswer]] = Deferred()
        self._turn.run(lambda: Deferred.fromCoroutine(self._append(drafts, ctime, keys))).chainDeferred(answer)
        return answer

    def idle(self) -> Deferred[None]:
        """Fires when no batch waits for its turn."""
        return self._turn.run(lambda: None)

    async def _append(self, drafts: Sequence[Draft], ctime: int, keys: Keys) -> list[AppendAnswer]:
        end = self._clock.seconds() + TRY_SECONDS
        seqs = self._expected(drafts)
        sealed: list[Draft | SealedDraft] = list(drafts)
        while True:
            sealed = [_sealed(keys, *one) for one in zip(drafts, seqs, sealed, strict=True)]
            stored, answers = await self._send(sealed, ctime)
            self._learn(drafts, answers)
            if stored:
                return answers
            if self._clock.seconds() > end:
                why = "the other nodes write so much into these rooms that this one does not get its turn"
                raise MercuryError("unavailable", why, RETRY_AFTER)
            seqs = [answer.seq or seq for answer, seq in zip(answers, seqs, strict=True)]

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

    def _learn(self, drafts: Sequence[Draft], answers: Sequence[AppendAnswer]) -> None:
        if len(self._heads) > KNOWN_ROOMS:
            self._heads.clear()
        for draft, answer in zip(drafts, answers, strict=True):
            if answer.seq:
                self._heads[draft.rid] = answer.seq


def _sealed(keys: Keys, draft: Draft, seq: int, before: Draft | SealedDraft) -> Draft | SealedDraft:
    """The draft, sealed for a seq; as it was before, if that was for the same one."""
    if draft.kind != "message" or (isinstance(before, SealedDraft) and before.seq == seq):
        return before
    text = in_base64(keys.seal(draft.rid, seq, draft.text))
    return SealedDraft(draft.rid, draft.mid, text, draft.cid, seq)
