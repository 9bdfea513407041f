"""The road of one message in docs/design.md is the one that a message takes, and it is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercury.reference import road, road_picture
from mercury.reference.road import Profile, Road, Step
from tests.support.paths import ROOT
from tests.support.redis_servers import redis_or_skip
from tools.road import one_node, two_nodes

#: How many files, and how many changes of file, there may be on one node with SQLite.
FILES, CHANGES = 16, 30


@pytest.mark.parametrize("name", Profile._fields)
def test_every_function_on_the_road_is_there(name: str) -> None:
    for step in getattr(road.read(), name):
        assert road.spoken(step.function) in road.docstrings(step.file), step


@pytest.mark.slow
def test_the_road_through_one_node_is_the_one_that_is_shown_and_is_short() -> None:
    seen = one_node(ROOT)
    assert road.files(seen) == road.files(road.read().node), "run make road"
    assert len(road.files(road.in_reactor(seen))) <= FILES
    assert road.changes(road.in_reactor(seen)) <= CHANGES


@pytest.mark.slow
def test_the_roads_through_two_nodes_are_those_that_are_shown() -> None:
    redis_or_skip()
    sender, receiver = two_nodes(ROOT)
    assert road.files(sender) == road.files(road.read().sender), "run make road"
    assert road.files(receiver) == road.files(road.read().receiver), "run make road"


def test_calls_in_one_file_are_one_station_and_those_beside_have_letters() -> None:
    way = [
        Step("a.py", "f"), Step("a.py", "g"), Step("a.py", "f"), Step("b.py", "h", True), Step("a.py", "i", True),
        Step("b.py", "h"), Step("a.py", "f"),
    ]  # fmt: skip
    assert road.stations(way) == [
        ("1", "a.py", ["f", "g"]), ("1a", "b.py", ["h"]), ("1b", "a.py", ["i"]), ("2", "b.py", ["h"]),
        ("3", "a.py", ["f"]),
    ]  # fmt: skip
    assert road.changes(road.in_reactor(way)) == 2


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    way: Road = [Step("a.py", "f"), Step("b.py", "A.g.<locals>.<lambda>", True)]
    road.write(Profile(way, way[:1], []), tmp_path / "road.json")
    assert road.read(tmp_path / "road.json") == Profile(way, way[:1], [])


def test_every_file_of_the_road_through_one_node_is_in_the_picture() -> None:
    drawn = road_picture.picture()
    for file in road.files(road.read().node):
        assert f">{'/'.join(file.split('/')[-2:])}<" in drawn or f">{file.split('/')[-1]}<" in drawn, file
