"""The benchmark's own arithmetic, and that what it is made of fits together. Its servers and its load generator are
checked by `make bench ARGS="check"`, which needs a compiler and other people's servers."""

from __future__ import annotations

import json

import pytest

from bench import report, side_by_side
from bench.__main__ import chosen, options
from bench.expected import EXPECTED, Expected
from bench.processes import BenchError
from bench.rivals.install import HERE, requirements
from bench.rivals.programs import RIVALS
from bench.runs import Results
from bench.scenarios import BY_NAME, NAMES, SCENARIOS, takes_part
from bench.scenarios import RIVALS as RIVAL_NAMES


def results(scenario: str, **rounds: list[float]) -> Results:
    """Runs of a scenario that sent so many messages a second, by server."""
    made = Results()
    for server, values in rounds.items():
        for value in values:
            made.add(scenario, server, {"messages_per_s": value, "deliveries_per_s": value * 2, "p50_ms": 1.0})
    return made


def test_a_ratio_is_the_median_of_those_within_each_round() -> None:
    """Not the ratio of the medians: that would compare runs that the machine treated differently."""
    made = results("pairs-100", sqlite=[10, 40, 90], ws=[10, 20, 100])
    assert made.ratio(("pairs-100", "sqlite"), ("pairs-100", "ws"), "messages_per_s") == 1.0
    assert made.median("pairs-100", "sqlite", "messages_per_s") == 40


def test_a_server_that_runs_in_fewer_rounds_is_compared_within_those() -> None:
    made = results("pairs-100", sqlite=[10, 20, 1000, 1000, 1000], floor=[10, 10])
    assert made.ratio(("pairs-100", "sqlite"), ("pairs-100", "floor"), "messages_per_s") == 1.5


@pytest.mark.parametrize(("value", "verdict"), [(40_000, "met"), (39_999, "missed")])
def test_an_expectation_is_met_or_missed(value: float, verdict: str) -> None:
    lines = report.expectations(results("pairs-100", sqlite=[value])).splitlines()
    assert f"| 100 pairs, Mercury, SQLite | at least 40,000 messages/s | {value:,} | {verdict} |" in lines


def runs_on(scenario: str, server: str) -> bool:
    return server in BY_NAME[scenario].servers


@pytest.mark.parametrize("wanted", EXPECTED, ids=lambda wanted: f"{wanted.scenario}-{wanted.figure}")
def test_what_is_expected_is_measured(wanted: Expected) -> None:
    """An expectation of something that no run measures would never be missed."""
    assert runs_on(wanted.scenario, wanted.server)
    assert wanted.beside is None or runs_on(*wanted.beside)


def test_every_server_has_a_name_and_each_takes_part_in_the_first_round() -> None:
    assert {server for scenario in SCENARIOS for server in scenario.servers} == set(NAMES)
    assert set(RIVAL_NAMES) == set(RIVALS)
    assert all(takes_part(scenario, server, 1, 5) for scenario in SCENARIOS for server in scenario.servers)


def test_what_is_at_half_the_rate_of_another_scenario_brings_that_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--only=pairs-100-half", "--store=sqlite"])
    assert [(scenario.name, on) for scenario, on in chosen(options())] == [
        ("pairs-100", ["sqlite"]),
        ("pairs-100-half", ["sqlite"]),
    ]


@pytest.mark.parametrize("flag", ["--only=pairs-7", "--store=oracle"])
def test_a_name_that_there_is_not_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", flag])
    with pytest.raises(BenchError, match="there is no"):
        chosen(options())


@pytest.mark.slow
def test_tables_and_plots_have_a_row_and_a_bar_for_each_server() -> None:
    made = results("pairs-100", sqlite=[30_000], nchan=[20_000], floor=[100_000])
    rows = side_by_side.tables(made).splitlines()
    assert [row for row in rows if row.startswith("| Mercury, SQLite | on disk | 30,000 |")]
    assert [row for row in rows if row.startswith("| nchan") and "| the last ones, in memory | 20,000 |" in row]
    plot = side_by_side.plots(made)["performance-pairs.svg"]
    assert plot.count("<rect") == 1 + 3
    assert "30k" in plot


def test_rivals_are_pinned() -> None:
    """To one version each; npm's lock file agrees, and names no registry."""
    folder = HERE / "node"
    lock = json.loads((folder / "package-lock.json").read_text())["packages"]
    pins = json.loads((folder / "package.json").read_text())["dependencies"]
    assert pins == {name: lock[f"node_modules/{name}"]["version"] for name in pins}
    assert not [name for name, package in lock.items() if "resolved" in package]
    assert all(line.count("==") == 1 for line in requirements())
