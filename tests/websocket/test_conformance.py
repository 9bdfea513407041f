"""Mercury's WebSocket conforms to RFC 6455 and RFC 7692: every case of Autobahn|Testsuite is played and passes.

The run is the quick one of `python -m tests.conformance` (see conformance/README.md), in processes of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.utils import getProcessOutputAndValue

from tests.conformance.prepare import ARCHIVE, GROUPS, ConformanceError, check_complete, download, group_of
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

RUN_SECONDS = 600


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Play all cases once; what the report says of each."""
    path = tmp_path_factory.mktemp("conformance") / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--quick", "--report", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert path.exists(), f"the run ended with {done.returncode} and no report:\n{done.stdout}{done.stderr}"
    found: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_every_case_of_the_group_passes(group: int, cases: list[dict[str, Any]]) -> None:
    """None is missing, none is played twice, and none gets a verdict but OK, NON-STRICT or INFORMATIONAL."""
    played = [case for case in cases if group_of(case["case"]) == group]
    assert len({case["case"] for case in played}) == len(played) == GROUPS[group][1]
    failed = [
        case
        for case in played
        if case["behavior"] not in ("OK", "NON-STRICT", "INFORMATIONAL")
        or case["behavior_close"] not in ("OK", "INFORMATIONAL")
    ]
    assert not failed, "\n".join(f"{case['case']}: {case}" for case in failed)


class PlainEcho(WebSocketServerProtocol):
    """An echo that does everything right, as far as Autobahn does; the broken ones differ in one thing."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)  # type: ignore[no-untyped-call]


class FlippedEcho(PlainEcho):
    """Flips a bit of the first byte."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(bytes([payload[0] ^ 1]) + payload[1:], isBinary)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def serving(protocol: type[PlainEcho], **options: Any) -> AsyncIterator[str]:
    """Serve this protocol with these options of Autobahn's; gives the URL."""
    factory = WebSocketServerFactory()
    factory.protocol = protocol
    factory.setProtocolOptions(failByDrop=False, **options)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        address: Any = port.getHost()
        yield f"ws://127.0.0.1:{address.port}"
    finally:
        await maybeDeferred(port.stopListening)


@pytest.mark.parametrize(
    ("protocol", "options", "case", "code"),
    [
        pytest.param(PlainEcho, {}, "6.20.1", 0, id="right"),
        pytest.param(FlippedEcho, {}, "1.2.2", 1, id="flips a bit"),
        pytest.param(PlainEcho, {"utf8validateIncoming": False}, "6.20.1", 1, id="takes broken UTF-8"),
        pytest.param(PlainEcho, {"maxMessagePayloadSize": 65535}, "1.1.7", 1, id="refuses 65,536 bytes"),
        pytest.param(PlainEcho, {}, "12.1.1", 1, id="knows no compression"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_broken_server_is_found_out(
    protocol: type[PlainEcho], options: dict[str, Any], case: str, code: int, tmp_path: Path
) -> None:
    """The checker itself works: the right echo passes (code 0), each broken one fails (code 1)."""
    async with serving(protocol, **options) as url:
        arguments = ["-m", "tests.conformance", "--url", url, "--report", str(tmp_path / "report.json"), case]
        out, err, ended = await getProcessOutputAndValue(sys.executable, arguments, env=None, path=str(ROOT))
    assert (ended, err) == (code, b""), out.decode()
    assert "1 cases in" in out.decode()
    assert (f"FAILED {case}" in out.decode()) == (code == 1)


def test_a_port_that_loses_cases_is_an_error() -> None:
    with pytest.raises(ConformanceError, match="the suite has"):
        check_complete([])


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(b"not the suite")
    with pytest.raises(ConformanceError, match="delete it"):
        download(tmp_path)


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ConformanceError, match="CONFORMANCE_CACHE"):
        download(tmp_path)
