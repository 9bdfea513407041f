"""What is installed is safe enough and is what is written down. It stands in for an audit that needs a network.

Where a version is too old for a reason, the reason stands here, so that nobody lowers it unknowingly.
"""

from __future__ import annotations

import re
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT

SAFE = {
    # CVE-2026-77528, CVE-2026-116579: 61 kB on the wire become 60 MB, past any payload limit
    "autobahn": "26.10.1",
    # CVE-2024-41671, CVE-2024-41810: HTTP pipelining out of order, HTML injected in a redirect
    "twisted": "24.7.0",
    # CVE-2024-34069, CVE-2024-49767: remote code by the debugger, memory by multipart forms
    "werkzeug": "3.0.6",
    # CVE-2024-36039: SQL injection by the keys of a dict
    "pymysql": "1.1.1",
    # CVE-2024-3651: quadratic time on a long host name
    "idna": "3.7",
    # CVE-2020-14343: code run by yaml.load
    "pyyaml": "5.4",
}


def pins(name: str) -> dict[str, str]:
    """The packages of a requirements file, by canonical name. Fails on a line that is not an exact pin."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        assert match, f"requirements/{name}: {line!r} is not of the form name==version"
        found[canonicalize_name(match[1])] = match[2]
    return found


def closure(extras: frozenset[str]) -> dict[str, list[Requirement]]:
    """Everything that Mercury with these extras brings in on this Python, and who asks how for it."""
    found: dict[str, list[Requirement]] = {}
    done = set()
    todo = [("mercury-chat", extras)]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        for requirement in map(Requirement, requires(name) or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
                todo.append((requirement.name, frozenset(requirement.extras)))
    return found


@pytest.mark.parametrize(("name", "least"), SAFE.items())
def test_no_version_with_a_known_hole(name: str, least: str) -> None:
    assert Version(version(name)) >= Version(least)
    assert Version(pins("run.txt")[name]) >= Version(least)


@pytest.mark.parametrize(("extras", "files"), [([], ["run.txt"]), (["test"], ["run.txt", "test.txt"])])
def test_everything_that_setup_py_brings_is_pinned(extras: list[str], files: list[str]) -> None:
    """Nothing is left to the day of the installation, no pin is left over, and setup.py allows every pin."""
    pinned = {name: pin for file in files for name, pin in pins(file).items()}
    asked = closure(frozenset(extras))
    assert pinned.keys() == asked.keys()
    for name, requirements in asked.items():
        for requirement in requirements:
            assert requirement.specifier.contains(pinned[name]), f"{requirement} against {pinned[name]}"


@pytest.mark.parametrize("file", ["run.txt", "test.txt"])
def test_what_is_pinned_is_what_runs(file: str) -> None:
    assert {name: version(name) for name in pins(file)} == pins(file)
