"""sqlmap finds no way from goTalk's forms into the database, and finds one where there is one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlencode
from urllib.request import urlopen

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.server_process import Server

pytestmark = pytest.mark.slow

FOUND = "sqlmap identified the following injection point"
NOT_FOUND = "all tested parameters do not appear to be injectable"
WHO = {"username": "ann", "password": "a good password"}


def attack(folder: Path, url: str, form: dict[str, Any]) -> str:
    """What sqlmap says of one call."""
    command = [
        str(Path(sys.executable).with_name("sqlmap")), "--url", url, "--data", urlencode(form), "--batch",
        "--flush-session", "--ignore-code=*", "--disable-coloring", "--output-dir", str(folder),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False).stdout


def ask(url: str, form: dict[str, Any]) -> bytes:
    with urlopen(url, urlencode(form).encode(), timeout=20) as answer:
        body: bytes = answer.read()
        return body


@pytest.mark.parametrize("store", ["sqlite", "mysql"])
@ensureDeferred
async def test_sqlmap_finds_nothing_in_gotalks_forms(store: str, mariadb: MariaDb, tmp_path: Path) -> None:
    port = free_port()
    flags = ["--gotalk.enabled=true", f"--gotalk.port={port}", "--gotalk.address=127.0.0.1/32"]
    flags += ["--gotalk.logins-per-minute=0", "--gotalk.registrations-per-minute=0", "--limits.messages-per-second=0"]
    mysql = [
        "--storage.type=mysql",
        "--mysql.host=127.0.0.1",
        f"--mysql.port={mariadb.port}",
        "--mysql.database=attack",
    ]
    server = Server(tmp_path, (free_port(), free_port()), *flags, *(mysql if store == "mysql" else ()))
    try:
        await server.start()
        url = f"http://127.0.0.1:{port}"
        await deferToThread(ask, f"{url}/register", WHO)
        token = (await deferToThread(ask, f"{url}/login", WHO)).decode().split('"SessionID":"')[1].rstrip('"}')
        calls: dict[str, dict[str, Any]] = {
            "login": WHO,
            "register": {**WHO, "username": "bob"},
            "getuseridbyname": {"username": "ann"},
            "send": {"id": 1, "token": token, "username": "ann", "sendToId": 1, "content": "hi", "cid": "c"},
        }
        said = await gatherResults(
            [deferToThread(attack, tmp_path / call, f"{url}/{call}", form) for call, form in calls.items()]
        )
        assert [call for call, words in zip(calls, said, strict=True) if NOT_FOUND not in words or FOUND in words] == []
        assert b'"level": "error"' not in server.written()
    finally:
        if server.processes:
            await server.kill()


class Careless(BaseHTTPRequestHandler):
    """Puts what it is given into a statement."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        database = sqlite3.connect(":memory:")
        try:
            rows = database.execute(f"SELECT 1 WHERE 'ann' = '{form.get('username', [''])[0]}'").fetchall()
            status, body = 200, str(rows).encode()
        except sqlite3.Error as error:
            status, body = 500, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def careless() -> Iterator[int]:
    """The port of a server that can be attacked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_sqlmap_finds_what_there_is(careless: int, tmp_path: Path) -> None:
    assert FOUND in attack(tmp_path, f"http://127.0.0.1:{careless}/", {"username": "ann"})
