"""What is measured, in which order, on which servers. A Scenario is a row of a table for each of its servers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

Kind = Literal["fanout", "pairs", "relay", "alone", "storm", "idle"]

#: The servers by name, and what the tables call them.
NAMES: Final = {
    "memory": "Mercury, memory",
    "sqlite": "Mercury, SQLite",
    "mariadb": "Mercury, MariaDB",
    "worker": "Mercury, Redis, 1 worker",
    "workers": "Mercury, Redis, 2 workers",
    "echo": "Mercury's protocol class",
    "nchan": "nchan",
    "ws": "ws",
    "socketio": "Socket.IO",
    "autobahn": "Autobahn",
    "websockets": "websockets",
    "python-socketio": "python-socketio",
    "crossbar": "Crossbar",
    "floor": "floor in C",
}


@dataclass(frozen=True)
class Scenario:
    """`connections` members, each in one room. Messages leave as others arrive, `in_flight` on the way, or at a fixed
    `rate` a second, or, with `half_of`, at half the rate that this other scenario has just reached. `hamper`: what one
    of the members does that takes nothing ("stopped") or little ("slow"). `together`: all share the cores.
    `longer`: measured so many times as long as the others."""

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
    together: bool = False
    longer: int = 1

    def room(self, index: int) -> str:
        """The room that a member is in."""
        size = {"fanout": self.connections, "pairs": 2, "relay": 2, "alone": 1, "storm": 1, "idle": 1}[self.kind]
        return f"room{index // size}"


FAST: Final = ("nchan", "ws", "socketio", "websockets")
SLOW: Final = ("python-socketio", "crossbar")
RIVALS: Final = (*FAST, "autobahn", *SLOW)
OTHERS: Final = (*RIVALS, "floor")
SQLITE: Final = ("sqlite",)
WORKERS: Final = ("worker", "workers")


def fanout(name: str, how: str, servers: tuple[str, ...], in_flight: int = 1, members: int = 1000) -> Scenario:
    """One of them sends to all."""
    return Scenario(f"fanout-{name}", f"1 sender to {members:,} members, {how}", "fanout", members, servers, in_flight)


def half(name: str, how: str, hamper: Literal["slow", "stopped"] | None = None) -> Scenario:
    """1,000 members, at half of the rate that was reached with 16 in flight; longer, since p99s are compared."""
    return replace(fanout(f"1000-{name}", how, SQLITE), half_of="fanout-1000-16", hamper=hamper, longer=2)


SCENARIOS: Final = (
    fanout("1000-1", "1 in flight", ("sqlite", *FAST, *SLOW, "floor")),
    fanout("1000-16", "16 in flight", ("memory", "sqlite", "mariadb", *OTHERS), 16),
    fanout("1000-64", "64 in flight", ("sqlite", *FAST, "floor"), 64),
    fanout("5000-16", "16 in flight", ("sqlite", *FAST, "floor"), 16, members=5000),
    replace(fanout("1000-16-v2", "16 in flight, in v2", SQLITE, 16), protocol="v2"),
    replace(fanout("1000-600k", "600 messages/s", ("sqlite", "floor")), rate=600),
    half("half", "at half load"),
    half("slow", "at half load, one of them slow", "slow"),
    half("stopped", "at half load, one of them stopped", "stopped"),
    Scenario("pairs-100", "100 pairs", "pairs", 200, ("memory", "sqlite", "mariadb", *OTHERS)),
    Scenario("pairs-1000", "1,000 pairs", "pairs", 2000, ("memory", "sqlite", *OTHERS)),
    Scenario("pairs-100-v2", "100 pairs, in v2", "pairs", 200, SQLITE, 1, "v2"),
    Scenario("pairs-100-half", "100 pairs, at half load", "pairs", 200, SQLITE, half_of="pairs-100"),
    replace(fanout("1000-16-together", "16 in flight, sharing cores", WORKERS, 16), together=True),
    Scenario("pairs-100-together", "100 pairs, sharing cores", "pairs", 200, WORKERS, together=True),
    Scenario("echo-100", "echo, 100 connections", "alone", 100, ("echo", "autobahn", "floor"), protocol="echo"),
    Scenario("storm-2000", "2,000 connect, 256 at a time", "storm", 2000, ("sqlite", *OTHERS), 1, "v2", 256),
    Scenario("idle-5000", "5,000 idle connections", "idle", 5000, ("sqlite", *OTHERS), 1, "v2", 256),
)
BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}
QUICK: Final = ("fanout-1000-16", "pairs-100", "storm-2000", "idle-5000")
QUICK_ON: Final = ("memory", "sqlite", "floor")


def takes_part(scenario: Scenario, server: str, number: int, rounds: int) -> bool:
    """Whether a scenario is run on a server in this round: idle connections once, what nothing is compared with less
    often than the rest."""
    if scenario.kind == "idle" and server != "sqlite":
        return number == 1
    return number <= (fewer(rounds) if server in (*SLOW, "floor") or scenario.kind == "idle" else rounds)


def fewer(rounds: int) -> int:
    """How many rounds those take part in that are seldom compared with."""
    return max(1, rounds - 2)
