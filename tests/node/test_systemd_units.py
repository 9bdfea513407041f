"""The units in debian/: systemd understands them, they are hardened, and what they leave is enough for Mercury."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from mercury.cli.keys import main as mercury_keys
from mercury.node.build import warnings_of_files
from mercury.node.process import STOP_SECONDS
from mercury.settings.schema import Config
from tests.promises.cuts import Person
from tests.support.certificates import Authority
from tests.support.child_programs import SERVER
from tests.support.free_ports import free_port
from tests.support.paths import ROOT
from tests.support.systemd_sandbox import allowed, other_families, values
from tests.support.systemd_unit import Unit

pytestmark = pytest.mark.alone

DEBIAN = ROOT / "debian"
SERVICES = ("mercury.service", "mercury@.service")
MOST_EXPOSED = 20  # of 100, as `systemd-analyze security` counts it; 2.0 in its words

analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not there")


def units(folder: Path) -> list[Path]:
    """The units, with a command that is there, and an instance for the template."""
    for name in (*SERVICES, "mercury.socket"):
        (folder / name).write_text((DEBIAN / name).read_text().replace("/usr/bin/mercury", "/bin/true"))
    shutil.copy(folder / "mercury@.service", folder / "mercury@one.service")
    return [folder / name for name in ("mercury.service", "mercury@one.service", "mercury.socket")]


def run(*command: object) -> tuple[int, str]:
    """Its exit code and all that it wrote."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@analyze
def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    code, written = run("systemd-analyze", "verify", "--man=no", *units(tmp_path))
    assert [line for line in written.splitlines() if "mercury" in line] == []
    assert code == 0, written
    (tmp_path / "mercury.service").write_text("[Service]\nExecStart=/bin/true\nTypo=notify\n")
    _, written = run("systemd-analyze", "verify", "--man=no", tmp_path / "mercury.service")
    assert "Typo" in written  # so would anything wrong be


@analyze
def test_they_are_hardened(tmp_path: Path) -> None:
    for unit in units(tmp_path)[:2]:
        code, written = run(
            "systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit
        )
        assert code == 0, written
        assert re.search(r"Overall exposure level for .*: [01]\.\d OK", written), written


@pytest.mark.parametrize("name", SERVICES)
def test_their_limits_fit_mercurys_own(name: str) -> None:
    unit, config = (DEBIAN / name).read_text(), Config()
    (files,) = values(unit, "LimitNOFILE")
    assert warnings_of_files(config, int(files)) == []
    (stop,) = values(unit, "TimeoutStopSec")
    assert int(stop) > 2 * (STOP_SECONDS + config.drain.seconds)


def test_the_template_is_the_service_but_for_its_name() -> None:
    service, template = ((DEBIAN / name).read_text() for name in SERVICES)
    for one, other in (
        ("chat service", "chat service, node %i"),
        ("mercury/mercury.toml", "mercury/%i.toml"),
        ("Directory=%S/mercury", "Directory=%S/mercury/%i"),
        ("StateDirectory=mercury", "StateDirectory=mercury/%i"),
        ("RuntimeDirectory=mercury", "RuntimeDirectory=mercury-%i"),  # one that stops takes away its own only
        ("mercury.socket", "a mercury@NAME.socket"),
    ):
        assert service.count(one) == 1
        service = service.replace(one, other)
    assert template == service


def test_the_sockets_are_those_of_the_default_settings() -> None:
    server = Config().server
    assert values((DEBIAN / "mercury.socket").read_text(), "ListenStream") == [
        str(server.ws.port),
        f"127.0.0.1:{server.api.port}",
    ]


def is_filtered(pid: int) -> bool:
    """Whether a process is under seccomp filters (proc(5))."""
    return "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()


@analyze
@ensureDeferred
async def test_what_the_unit_leaves_is_enough(tmp_path: Path) -> None:
    """Start, TLS, passwords (argon2), sealed texts (AES), a reload and a stop, with the unit's system calls only."""
    few = allowed((DEBIAN / "mercury.service").read_text())
    assert {"read", "accept4", "fdatasync"} <= few
    assert not {"ptrace", "mount", "setuid", "bpf", "sched_setaffinity"} & few
    assert 16 in other_families((DEBIAN / "mercury.service").read_text())  # AF_NETLINK
    authority = Authority(tmp_path / "authority.pem")
    cert, key = authority.issue(tmp_path / "own", "127.0.0.1")
    mercury_keys(["new", str(tmp_path / "keys")])
    gotalk = free_port()
    unit = Unit(
        tmp_path,
        f"--server.ws.tls.cert={cert}",
        f"--server.ws.tls.key={key}",
        f"--crypto.keys={tmp_path / 'keys'}",
        "--gotalk.enabled",
        "--gotalk.address=127.0.0.1",
        f"--gotalk.port={gotalk}",
        program=(
            sys.executable,
            str(ROOT / "tests/support/systemd_sandbox.py"),
            str(DEBIAN / "mercury.service"),
            *SERVER,
        ),
    )
    trust = ssl.create_default_context(cafile=authority.file)
    trust.set_alpn_protocols(["h2", "http/1.1"])

    def ask_by_tls() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", unit.where.ws), 20) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return tls.recv(4096)

    try:
        await unit.start()
        assert is_filtered(unit.pid)
        await unit.ok("POST", "/api/rooms/tea/members", {"members": ["ann"]})
        await unit.ok("POST", "/api/rooms/tea/messages", {"member": "ann", "text": "sealed"})
        assert [seen.text for seen in await unit.history("tea")] == ["sealed"]
        await Person("ann", acks=True).enter(gotalk)
        assert (await deferToThread(ask_by_tls)).startswith(b"HTTP/1.1 426 ")
        await unit.reload()
        assert (await deferToThread(ask_by_tls)).startswith(b"HTTP/1.1 426 ")
        await unit.stop()
        assert unit.processes[-1].ended.result == 0
        levels = re.findall(r'"level": "(\w+)", "system": "[^"]*", "message": "([^"]*)', unit.written().decode())
        odd = [line for level, line in levels if level in ("warn", "error") and "files may be open" not in line]
        assert odd == []
    finally:
        await unit.close()
