"""The invariants over a record, by which Mercury's promises are judged. Nothing here knows how Mercury works.

I1 what was acknowledged is seen exactly once by every entitled member
I2 nothing is seen that was not asked; what was refused is never seen; what got no answer is seen once or never
I3 all see one order, without holes; a sender's own order is kept; live equals history
I4 no cursor passes a seq that appears later

Each violation is one line that begins with its invariant. The rooms of a record keep their members throughout, and all
devices were connected at the end until nothing more came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tests.support.recorder import Ask, Connection, Record, Seen

Log = dict[str, dict[int, Seen]]  # room -> seq -> entry


def violations(record: Record) -> list[str]:
    """What is wrong with what was seen; empty when all is well."""
    log: Log = {}
    found = list(_one_log(record, log))
    found += _histories(record, log)
    for connection in record.connections:
        found += _connection(connection, log)
    for device in record.devices:
        found += _cursors(record.of(device), log)
    found += _asks(record, log)
    found += _own_order(record, log)
    return found


def _sightings(record: Record) -> Iterator[tuple[str, Seen]]:
    for connection in record.connections:
        for run in connection.seen.values():
            yield from ((connection.device, seen) for seen in run)
    for source, rooms in record.histories.items():
        for entries in rooms.values():
            yield from ((source, seen) for seen in entries)
    for page in record.pages:
        yield from (("a page of history", seen) for seen in page)


def _one_log(record: Record, log: Log) -> Iterator[str]:
    """All sightings together make one log a room: a seq and an id mean one entry, and ids grow with seqs."""
    ids: dict[int, Seen] = {}
    for who, seen in _sightings(record):
        known = log.setdefault(seen.rid, {}).setdefault(seen.seq, seen)
        if known != seen:
            yield f"I3 {who} saw another entry at {seen.rid}/{seen.seq}: {_short(seen)}, others {_short(known)}"
        if seen.kind == "message" and ids.setdefault(seen.id, seen)[:2] != seen[:2]:
            yield f"I3 id {seen.id} stands at {seen.rid}/{seen.seq} and {ids[seen.id].rid}/{ids[seen.id].seq}"
    for rid, entries in log.items():
        in_order = [entries[seq].id for seq in sorted(entries) if entries[seq].kind == "message"]
        if in_order != sorted(in_order):
            yield f"I3 ids of {rid} do not grow with seq"


def _histories(record: Record, log: Log) -> Iterator[str]:
    """Every kind of interface tells the same history, it has all that was seen, and the log has no holes."""
    for rid, entries in log.items():
        messages = [entries[seq] for seq in sorted(entries) if entries[seq].kind == "message"]
        for source, rooms in record.histories.items():
            told = rooms.get(rid, [])
            if told != messages:
                odd = sorted(set(told) ^ set(messages))
                where = f"first at seq {odd[0].seq}" if odd else "in the order"
                yield f"I3 history of {rid} from {source} differs from what was seen, {where}"
        missing = set(range(min(entries), max(entries) + 1)) - entries.keys()
        if missing and any(c.everything for c in record.connections):
            yield f"I3 nobody was ever shown {rid}/{min(missing)} ({len(missing)} holes in the log)"
    for page in record.pages:
        if page:
            first, last = page[0], page[-1]
            later = [e for e in _between(log[first.rid], first.seq, last.seq + 1, everything=False) if e not in page]
            for entry in later:
                yield f"I4 {entry.rid}/{entry.seq} appeared after history up to {last.seq} had been read without it"


def _connection(connection: Connection, log: Log) -> Iterator[str]:
    """On one connection a room's entries come in the order of seq, each once, without holes."""
    for rid, run in connection.seen.items():
        for before, after in pairwise(run):
            if after.seq <= before.seq:
                yield f"I3 {connection.device} saw {rid}/{after.seq} after {before.seq} on one connection"
            else:
                for hole in _between(log[rid], before.seq + 1, after.seq, connection.everything):
                    yield f"I3 {connection.device} saw {rid}/{after.seq} after {before.seq}, without {hole.seq}"
                if connection.everything and after.seq > before.seq + 1:
                    yield f"I3 {connection.device} saw {rid}/{after.seq} after {before.seq}, a hole"


def _cursors(connections: list[Connection], log: Log) -> Iterator[str]:
    """A connection begins no later than right after what its device has seen before, or where it asked to begin."""
    last: dict[str, int] = {}
    for connection in connections:
        for rid, run in connection.seen.items():
            if not run:
                continue
            claimed = (connection.resumed or {}).get(rid)
            if claimed is not None and run[0].seq != claimed + 1:
                yield f"I4 {connection.device} resumed {rid} after {claimed} and got {run[0].seq} first"
            elif rid in last:
                for passed in _between(log[rid], last[rid] + 1, run[0].seq, connection.everything):
                    yield f"I4 the cursor of {connection.device} had passed {rid}/{passed.seq}, which it never got"
            last[rid] = max(last.get(rid, 0), run[-1].seq)


def _asks(record: Record, log: Log) -> Iterator[str]:
    by_text: dict[tuple[str, str, str], list[int]] = {}
    for rid, entries in log.items():
        for seen in entries.values():
            if seen.kind == "message":
                by_text.setdefault((rid, seen.mid, seen.text), []).append(seen.seq)
    asked = {(ask.rid, ask.mid, ask.text): ask for ask in record.asks}
    for key, seqs in by_text.items():
        if key not in asked:
            yield f"I2 {key[0]}/{seqs[0]} by {key[1]} was never asked: {key[2][:40]!r}"
    got = {
        device: {(rid, s.seq) for c in record.of(device) for rid, run in c.seen.items() for s in run}
        for device in record.devices
    }
    for key, ask in asked.items():
        seqs = by_text.get(key, [])
        if len(seqs) > 1:
            yield f"I2 {ask.text[:40]!r} of {ask.device}, asked once, is in {ask.rid} at {sorted(seqs)}"
        if ask.outcome == "fail" and seqs:
            yield f"I2 {ask.text[:40]!r} of {ask.device} was refused ({ask.code}) and is in {ask.rid} at {seqs}"
        if ask.outcome == "ok":
            yield from _acknowledged(record, log, ask, seqs, got)


def _acknowledged(
    record: Record, log: Log, ask: Ask, seqs: list[int], got: dict[str, set[tuple[str, int]]]
) -> Iterator[str]:
    for seq, id, _ in ask.answers:
        entry = log.get(ask.rid, {}).get(seq)
        if entry is None or entry.text != ask.text or (id is not None and entry.id != id):
            yield f"I1 {ask.text[:40]!r} of {ask.device} was acknowledged as {ask.rid}/{seq} and is not there"
    if not seqs:
        yield f"I1 {ask.text[:40]!r} of {ask.device} was acknowledged and nobody saw it"
    for device, mid in record.devices.items():
        if mid in record.members.get(ask.rid, ()) and seqs and (ask.rid, seqs[0]) not in got[device]:
            yield f"I1 {device} never saw {ask.rid}/{seqs[0]}, which was acknowledged"


def _own_order(record: Record, log: Log) -> Iterator[str]:
    place = {(rid, s.mid, s.text): s.seq for rid, entries in log.items() for s in entries.values()}
    last: dict[tuple[str, str], int] = {}
    for ask in record.asks:
        seq = place.get((ask.rid, ask.mid, ask.text))
        if seq is not None and not _out_of_turn(ask):
            if seq < last.get((ask.device, ask.rid), 0):
                yield f"I3 {ask.device} asked {ask.text[:40]!r} later than what stands behind it in {ask.rid} ({seq})"
            last[ask.device, ask.rid] = seq


def _out_of_turn(ask: Ask) -> bool:
    """Whether the sender itself went on without it: sent it again after `unavailable`, or left with the connection on
    which it was asked, while a frozen node may still have had it in its hands."""
    return (bool(ask.code) and ask.tries > 1) or (ask.outcome == "info" and ask.cid is None)


def _between(entries: dict[int, Seen], first: int, end: int, everything: bool) -> list[Seen]:
    """The entries with first <= seq < end that a connection is shown."""
    shown = (entries.get(seq) for seq in range(first, end))
    return [entry for entry in shown if entry is not None and (everything or entry.kind == "message")]


def _short(seen: Seen) -> str:
    return f"{seen.kind} {seen.id} of {seen.mid!r} {seen.text[:40]!r}"


def summary(found: Iterable[str]) -> str:
    """How many violations of each invariant, and the first few."""
    lines = list(found)
    counts = Counter(line[:2] for line in lines)
    return "\n".join([f"{len(lines)} violations: {dict(sorted(counts.items()))}", *lines[:20]])
