"""The checker catches what it is for: first in small records with one thing wrong, then in what Mercury does when it is
broken on purpose (promises/broken.py) and killed as in test_kill.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from tests.promises.checker import summary, violations
from tests.promises.cluster import Cluster
from tests.promises.kills import killed
from tests.promises.talk import pause
from tests.support.child_programs import SERVER
from tests.support.recorder import Ask, Connection, Record, Seen

TRIES = 15  # few are needed on a machine that has nothing else to do
PLAIN_TO_SEE = ("ack_before_commit", "no_dedup")  # the others need one certain client to come back at one moment


def broken(fault: str) -> tuple[str, ...]:
    """What starts a node with this fault."""
    return sys.executable, "-m", "tests.promises.broken", fault, *SERVER[1:]


def seen(seq: int, text: str, mid: str = "ann") -> Seen:
    return Seen("r", seq, 100 + seq, "message", mid, text)


def good() -> Record:
    """Ann says one, two and three (the second without an answer); Bob sees them on two connections."""
    log = [seen(1, "one"), seen(2, "two"), seen(3, "three")]
    return Record(
        members={"r": {"ann", "bob"}},
        devices={"ann/1": "ann", "bob/1": "bob"},
        asks=[
            Ask("ann/1", "ann", "r", "one", None, "ok", "", [(1, 101, False)]),
            Ask("ann/1", "ann", "r", "two", None, "info"),
            Ask("ann/1", "ann", "r", "three", "c", "ok", "", [(3, 103, False), (3, 103, True)]),
            Ask("bob/1", "bob", "r", "four", None, "fail", "too_large"),
            Ask("bob/1", "bob", "r", "five", None, "info"),
        ],
        connections=[
            Connection("ann/1", None, {"r": list(log)}),
            Connection("bob/1", None, {"r": log[:2]}),
            Connection("bob/1", {"r": 2}, {"r": log[2:]}),
        ],
        pages=[log[:2]],
        histories={"REST": {"r": list(log)}, "v2": {"r": list(log)}},
    )


def test_nothing_is_wrong_with_a_good_record() -> None:
    """What may happen is not called wrong: repeats after a break, an answer that never came."""
    assert violations(good()) == []
    record = good()
    record.connections[2] = Connection("bob/1", None, {"r": [seen(2, "two"), seen(3, "three")]})
    assert violations(record) == []


def test_who_sends_again_overtakes_itself() -> None:
    """A message sent again after `unavailable`, and one left behind with a connection, may stand after later ones."""
    record = good()
    own_order(record)
    assert violations(record)
    record.asks[0].code, record.asks[0].tries = "unavailable", 2
    assert violations(record) == []
    record = good()
    record.asks.insert(0, record.asks.pop(1))
    assert violations(record) == []


def lost(record: Record) -> None:
    record.connections[2].seen.clear()


def gone(record: Record) -> None:
    for run in (
        record.connections[0].seen["r"],
        record.connections[2].seen["r"],
        *(rooms["r"] for rooms in record.histories.values()),
    ):
        run.remove(seen(3, "three"))


def answered_otherwise(record: Record) -> None:
    record.asks[2].answers[1] = (2, 102, True)


def made_up(record: Record) -> None:
    del record.asks[1]


def refused_and_seen(record: Record) -> None:
    record.asks[1].outcome = "fail"


def stored_twice(record: Record) -> None:
    for run in (
        record.connections[0].seen["r"],
        record.connections[2].seen["r"],
        *(rooms["r"] for rooms in record.histories.values()),
    ):
        run.append(seen(4, "two"))


def twice_on_a_connection(record: Record) -> None:
    record.connections[0].seen["r"].append(seen(3, "three"))


def out_of_order(record: Record) -> None:
    record.connections[0].seen["r"].reverse()


def hole(record: Record) -> None:
    del record.connections[0].seen["r"][1]


def two_truths(record: Record) -> None:
    record.connections[2].seen["r"] = [seen(3, "five", "bob")]


def history_differs(record: Record) -> None:
    del record.histories["v2"]["r"][0]


def own_order(record: Record) -> None:
    record.asks.insert(0, record.asks.pop(2))


def cursor_too_far(record: Record) -> None:
    record.connections[1].seen["r"].pop()
    record.connections[2].resumed = None


def resumed_elsewhere(record: Record) -> None:
    record.connections[2].resumed = {"r": 1}


def late_in_history(record: Record) -> None:
    record.pages.append([seen(1, "one"), seen(3, "three")])


@pytest.mark.parametrize(
    ("spoil", "invariant"),
    [
        (lost, "I1"),
        (gone, "I1"),
        (answered_otherwise, "I1"),
        (made_up, "I2"),
        (refused_and_seen, "I2"),
        (stored_twice, "I2"),
        (twice_on_a_connection, "I3"),
        (out_of_order, "I3"),
        (hole, "I3"),
        (two_truths, "I3"),
        (history_differs, "I3"),
        (own_order, "I3"),
        (cursor_too_far, "I4"),
        (resumed_elsewhere, "I4"),
        (late_in_history, "I4"),
    ],
)
def test_one_thing_wrong_is_found(spoil: Callable[[Record], None], invariant: str) -> None:
    """Each fault is reported under the invariant that it breaks."""
    record = good()
    spoil(record)
    assert invariant in {line[:2] for line in violations(record)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        ("ack_before_commit", "I1"),
        ("no_dedup", "I2"),
        ("cursor_by_id", "I4"),
        ("cursor_when_queued", "I4"),
        ("log_before_subscribing", "I1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_broken_mercury_is_found(fault: str, invariant: str, tmp_path: Path) -> None:
    """The scenario that Mercury passes finds each fault, nearly always in the first try; those that are there all the
    time with the eyes of v2's clients and of WAMP's."""
    blind = {"v2", "wamp"}
    for seed in range(TRIES):
        found = violations((await killed(tmp_path, seed, broken(fault)))[0])
        print(f"{fault}, seed {seed}: {summary(found)}")
        lines = [line for line in found if line.startswith(invariant)]
        blind = {kind for kind in blind if not any(f"/{kind}" in line for line in lines)}
        if not blind or (lines and fault not in PLAIN_TO_SEE):
            return
    raise AssertionError(f"no client of {blind} noticed {fault}")


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_lost_bus_message_is_found(tmp_path: Path) -> None:
    """The same for what goes wrong between nodes."""
    cluster = Cluster(tmp_path, "redis", 1, program=broken("lost_notification"))
    try:
        await cluster.begin()
        for number in range(TRIES):
            if any(line.startswith("I1") for line in await cluster.round(number, talk_only)):
                return
    finally:
        await cluster.close()
    raise AssertionError("nobody noticed it")


async def talk_only(cluster: Cluster) -> None:
    """No other harm than what is in the nodes."""
    await pause(1)
