"""What Mercury is expected to reach: figures, and ratios to other runs of the same round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bench.scenarios import BY_NAME, NAMES


@dataclass(frozen=True)
class Expected:
    """A scenario's figure on a server, as it is or, with `beside`, divided by that of another scenario or server."""

    scenario: str
    server: str
    figure: str
    sense: Literal["at least", "at most"]
    bound: float
    unit: str
    beside: tuple[str, str] | None = None

    @property
    def title(self) -> str:
        """What is measured."""
        said = f"{BY_NAME[self.scenario].title}, {NAMES[self.server]}"
        if not self.beside:
            return said
        scenario, server = self.beside
        return f"{said}, compared with {NAMES[server] if scenario == self.scenario else BY_NAME[scenario].title}"

    def is_met(self, value: float) -> bool:
        """Whether that is enough."""
        return value >= self.bound if self.sense == "at least" else value <= self.bound


def reach(scenario: str, bound: float, figure: str = "deliveries_per_s", server: str = "sqlite") -> Expected:
    """So many a second at least."""
    return Expected(scenario, server, figure, "at least", bound, figure.replace("_per_s", "/s"))


def stay(scenario: str, bound: float, figure: str, unit: str) -> Expected:
    """So much at most, on SQLite."""
    return Expected(scenario, "sqlite", figure, "at most", bound, unit)


def times(scenario: str, bound: float, figure: str, other: str, server: str = "sqlite") -> Expected:
    """So many times as much as another server at least."""
    return Expected(scenario, server, figure, "at least", bound, f"times the {named(figure)}", (scenario, other))


def unlike(scenario: str, bound: float, figure: str, other: str) -> Expected:
    """At most so many times as much as in another scenario, on SQLite."""
    return Expected(scenario, "sqlite", figure, "at most", bound, f"times the {named(figure)}", (other, "sqlite"))


def named(figure: str) -> str:
    """A figure, as the tables name it."""
    return figure.replace("_per_s", "/s").removesuffix("_ms")


MESSAGES: Final = "messages_per_s"
DELIVERIES: Final = "deliveries_per_s"
EXPECTED: Final = (
    reach("fanout-1000-1", 250_000),
    times("fanout-1000-1", 0.9, DELIVERIES, "nchan"),
    reach("fanout-1000-16", 2_400_000),
    times("fanout-1000-16", 5, DELIVERIES, "nchan"),
    reach("fanout-1000-64", 4_500_000),
    times("fanout-1000-64", 0.7, DELIVERIES, "floor"),
    reach("fanout-5000-16", 1_500_000),
    stay("fanout-1000-600k", 6, "p50_ms", "ms (p50)"),
    stay("fanout-1000-600k", 15, "p99_ms", "ms (p99)"),
    unlike("fanout-1000-slow", 1.1, "p99_ms", "fanout-1000-half"),
    unlike("fanout-1000-stopped", 1.1, "p99_ms", "fanout-1000-half"),
    reach("pairs-100", 40_000, MESSAGES),
    times("pairs-100", 2, MESSAGES, "autobahn"),
    times("pairs-100", 1, MESSAGES, "ws"),
    Expected("pairs-100", "sqlite", MESSAGES, "at least", 50_000, "messages/s, some day"),
    reach("pairs-1000", 30_000, MESSAGES),
    times("pairs-100", 1 / 1.15, MESSAGES, "memory"),
    reach("pairs-100", 20_000, MESSAGES, "mariadb"),
    stay("storm-2000", 0.9, "seconds", "s"),
    stay("idle-5000", 12, "kb_per_connection", "KB a connection"),
    stay("idle-5000", 0.01, "idle_cpu", "cores"),
    times("fanout-1000-16-together", 1.3, DELIVERIES, "worker", "workers"),
    Expected(
        "fanout-1000-16-together",
        "workers",
        "server_us_per_delivery",
        "at most",
        1.25,
        "times the CPU a delivery",
        ("fanout-1000-16-together", "worker"),
    ),
    reach("echo-100", 80_000, MESSAGES, "echo"),
)
