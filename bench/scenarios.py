"""What is measured, in which order, on which servers. A Scenario is a row of a table for each of its servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["fanout", "pairs", "relay", "alone", "storm", "idle"]

#: The servers by name, and what the tables call them.
NAMES: Final = {
    "memory": "Mercury, memory",
    "sqlite": "Mercury, SQLite",
    "mariadb": "Mercury, MariaDB",
    "echo": "Mercury's protocol class",
    "autobahn": "Autobahn",
    "floor": "floor in C",
}


@dataclass(frozen=True)
class Scenario:
    """`connections` members, each in one room. Messages leave as others arrive, `in_flight` on the way, or at a fixed
    `rate` a second, or, with `half_of`, at half the rate that this other scenario has just reached. `hamper`: what one
    of the members does that takes nothing ("stopped") or little ("slow")."""

    name: str
    title: str
    kind: Kind
    connections: int
    servers: tuple[str, ...]
    in_flight: int = 1
    protocol: Literal["seed", "v2", "wamp", "router", "echo"] = "seed"
    handshakes: int = 64
    half_of: str | None = None
    rate: float | None = None
    hamper: Literal["slow", "stopped"] | None = None

    def room(self, index: int) -> str:
        """The room that a member is in."""
        size = {"fanout": self.connections, "pairs": 2, "relay": 2, "alone": 1, "storm": 1, "idle": 1}[self.kind]
        return f"room{index // size}"


SQLITE: Final = ("sqlite",)
STORES: Final = ("memory", "sqlite", "floor")
FANOUT: Final = "1 sender to 1,000 members"
SCENARIOS: Final = (
    Scenario("fanout-1000-1", f"{FANOUT}, 1 in flight", "fanout", 1000, STORES),
    Scenario("fanout-1000-16", f"{FANOUT}, 16 in flight", "fanout", 1000, STORES, in_flight=16),
    Scenario("fanout-1000-64", f"{FANOUT}, 64 in flight", "fanout", 1000, STORES, in_flight=64),
    Scenario("fanout-5000-16", "1 sender to 5,000 members, 16 in flight", "fanout", 5000, ("sqlite", "floor"), 16),
    Scenario("fanout-1000-600k", f"{FANOUT}, 600 messages/s", "fanout", 1000, ("sqlite", "floor"), rate=600),
    Scenario("fanout-1000-16-v2", f"{FANOUT}, 16 in flight, in v2", "fanout", 1000, SQLITE, 16, "v2"),
    Scenario("fanout-1000-half", f"{FANOUT}, at half load", "fanout", 1000, SQLITE, half_of="fanout-1000-16"),
    Scenario(
        "fanout-1000-slow",
        "the same, one member slow",
        "fanout",
        1000,
        SQLITE,
        half_of="fanout-1000-16",
        hamper="slow",
    ),
    Scenario(
        "fanout-1000-stopped",
        "the same, one member stopped",
        "fanout",
        1000,
        SQLITE,
        half_of="fanout-1000-16",
        hamper="stopped",
    ),
    Scenario("pairs-100", "100 pairs", "pairs", 200, ("memory", "sqlite", "mariadb", "floor")),
    Scenario("pairs-1000", "1,000 pairs", "pairs", 2000, STORES),
    Scenario("pairs-100-v2", "100 pairs, in v2", "pairs", 200, SQLITE, 1, "v2"),
    Scenario("pairs-100-half", "100 pairs, at half load", "pairs", 200, SQLITE, half_of="pairs-100"),
    Scenario("echo-100", "echo, 100 connections", "alone", 100, ("echo", "autobahn", "floor"), protocol="echo"),
    Scenario("storm-2000", "2,000 connect, 256 at a time", "storm", 2000, SQLITE, 1, "v2", 256),
    Scenario("idle-5000", "5,000 idle connections", "idle", 5000, SQLITE, 1, "v2", 256),
)
BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}
QUICK: Final = ("fanout-1000-16", "pairs-100", "storm-2000", "idle-5000")


def takes_part(scenario: Scenario, server: str, number: int, rounds: int) -> bool:
    """Whether a scenario is run on a server in this round. What varies little, or is not compared, runs less often."""
    seldom = server == "floor" or scenario.kind == "idle"
    return number <= (max(1, rounds - 2) if seldom else rounds)
