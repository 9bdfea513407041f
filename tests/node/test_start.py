"""A start that cannot be ends with one clear line and an exit code; a start that can says where to go on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.refused_start import LOCAL, MERCURY, refused

pytestmark = pytest.mark.slow


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_named_with_its_flag(tmp_path: Path, taken: int) -> None:
    for flag in ("--server.ws.port", "--server.api.port"):
        line = refused(tmp_path, f"{flag}={taken}")
        assert flag in line
        assert f"{taken}" in line
        assert "in use" in line


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert "/proc/nowhere/m.sqlite" in refused(tmp_path, "--sqlite.path=/proc/nowhere/m.sqlite")
    (tmp_path / "text").write_text("this is no database, but long enough to be looked at " * 20)
    assert str(tmp_path / "text") in refused(tmp_path, f"--sqlite.path={tmp_path}/text")


def test_an_endpoint_that_is_none_is_named(tmp_path: Path) -> None:
    assert "--server.ws.endpoint" in refused(tmp_path, "--server.ws.endpoint=nonsense:1")


def test_a_database_server_that_is_not_there_is_named(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    line = refused(tmp_path, "--mysql.host=127.0.0.1", f"--mysql.port={port}")
    assert f"the database mercury on 127.0.0.1:{port} cannot be used" in line
    assert "Connection refused" in line
    assert "mysql.tls" in refused(tmp_path, "--mysql.host=127.0.0.1", "--mysql.tls-ca=ca.pem")


def test_a_wrong_value_an_unknown_flag_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    assert "--limits.text-bytes" in refused(tmp_path, "--limits.text-bytes=many")
    assert "MERCURY_LIMITS_TEXT_BYTES" in refused(tmp_path, MERCURY_LIMITS_TEXT_BYTES="many")
    assert "--sqlite.path" in refused(tmp_path, "--sqlit.path=x")
    assert "missing.toml" in refused(tmp_path, "--config", "missing.toml")


def test_a_file_of_keys_that_cannot_be_used_is_named_and_shows_nothing(tmp_path: Path) -> None:
    """Rather than that texts are stored in clear by mistake."""
    assert "--crypto.keys: missing cannot be read" in refused(tmp_path, "--crypto.keys=missing")
    (tmp_path / "keys").write_text("k1:c2VjcmV0\n")
    line = refused(tmp_path, "--crypto.keys=keys")
    assert "keys, line 1: the key has 6 bytes; it must have 32" in line
    assert "c2VjcmV0" not in line
    assert not (tmp_path / "var").exists()


def test_a_start_prints_the_addresses_and_a_stop_ends_well(tmp_path: Path) -> None:
    """And the data is where --sqlite.path says, even in a directory that did not exist."""
    server = subprocess.Popen(
        [*MERCURY, *LOCAL, "--sqlite.path=new/m.sqlite"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.defpath},  # no mercury-client on it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        seen = ""
        while "curl" not in seen:
            line = server.stderr.readline()
            assert line, seen
            seen += line
        assert re.search(r"REST +http://127\.0\.0\.1:\d+", seen)
        assert re.search(r"WebSocket +ws://127\.0\.0\.1:\d+/ws/connect", seen)
        assert "make client MEMBER=1" in seen
        assert (tmp_path / "new" / "m.sqlite").exists()
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=30)
        assert server.returncode == 0
        assert "Traceback" not in out + err
    finally:
        server.kill()
        server.communicate()


def test_timers_run_on_a_monotonic_clock() -> None:
    """Twisted's own go by the wall clock: set back by an hour, it would stop every heartbeat for an hour."""
    script = (
        "import time; from twisted.internet import reactor; from mercury.node.build import prepare_process\n"
        "prepare_process(reactor); fired = []; began = time.monotonic()\n"
        "reactor.callLater(0.1, fired.append, 1); time.time = lambda: 0.0\n"
        "while not fired and time.monotonic() < began + 20: reactor.iterate(0.01)\n"
        "assert fired and abs(reactor.seconds() - time.monotonic()) < 1"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
