"""What is measured, and in which order. One Scenario is one row of the table for each store it is run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fanout", "pairs", "relay", "alone", "storm", "idle"]
Store = Literal["memory", "sqlite", "floor"]


@dataclass(frozen=True)
class Scenario:
    """`connections` members, each in one room. `half_of`: at half the rate that this other one has just reached."""

    name: str
    title: str
    kind: Kind
    connections: int
    stores: tuple[Store, ...]
    in_flight: int = 1
    protocol: Literal["seed", "v2", "wamp", "router"] = "seed"
    handshakes: int = 64
    half_of: str | None = None

    def room(self, index: int) -> str:
        """The room that a member is in."""
        size = {"fanout": self.connections, "pairs": 2, "relay": 2, "alone": 1, "storm": 1, "idle": 1}[self.kind]
        return f"room{index // size}"


ALL: tuple[Store, ...] = ("memory", "sqlite", "floor")
SCENARIOS = (
    Scenario("fanout-1000-1", "1 sender to 1,000 members, 1 in flight", "fanout", 1000, ALL),
    Scenario("fanout-1000-16", "1 sender to 1,000 members, 16 in flight", "fanout", 1000, ALL, in_flight=16),
    Scenario("fanout-1000-64", "1 sender to 1,000 members, 64 in flight", "fanout", 1000, ALL, in_flight=64),
    Scenario("pairs-100", "100 pairs", "pairs", 200, ALL),
    Scenario("pairs-1000", "1,000 pairs", "pairs", 2000, ALL),
    Scenario("fanout-1000-16-v2", "the same in v2, 16 in flight", "fanout", 1000, ("sqlite",), 16, "v2"),
    Scenario("pairs-100-v2", "100 pairs in v2", "pairs", 200, ("sqlite",), 1, "v2"),
    Scenario("fanout-1000-half", "1,000 members at half load", "fanout", 1000, ("sqlite",), half_of="fanout-1000-16"),
    Scenario("pairs-100-half", "100 pairs at half load", "pairs", 200, ("sqlite",), half_of="pairs-100"),
    Scenario("storm-2000", "2,000 connect, 256 at a time", "storm", 2000, ("sqlite",), 1, "v2", 256),
    Scenario("idle-5000", "5,000 idle connections", "idle", 5000, ("sqlite",), 1, "v2", 256),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def fewer(rounds: int) -> int:
    """How many rounds the floor, storms and idle connections take part in: they vary little, or are not compared."""
    return max(1, rounds - 2)


QUICK = ("fanout-1000-16", "pairs-100", "storm-2000", "idle-5000")

#: What Mercury is expected to reach: scenario, store, figure, at least or at most, how much, unit.
EXPECTED: tuple[tuple[str, Store, str, Literal["at least", "at most"], float, str], ...] = (
    ("fanout-1000-16", "memory", "deliveries_per_s", "at least", 1_000_000, "deliveries/s"),
    ("idle-5000", "sqlite", "kb_per_connection", "at most", 12, "KB a connection"),
)
SQLITE_SHARE = 0.8  # of what memory reaches, in each scenario run on both
