"""Private MariaDB servers for tests: each in a process of its own, on a free port of 127.0.0.1, with its own files.

They can be killed and started again, as in real life. Without the program a test that asks for one is skipped with
the reason; `make test` installs it as root, and in CI a skip is a failure. tests/support/redis_servers.py is the same
for Redis. The benchmark uses both, without pytest.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pymysql

from mercury.stores.mysql.server import MysqlServer
from tests.support.free_ports import free_port

START_SECONDS = 60.0  # a server that has not answered by then is broken


def program(name: str) -> str:
    """The path of one of the server's programs; Debian has them where only root looks."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SkipTest(f"{name} is missing: apt-get install mariadb-server-core (make test does it, as root)")
    return found


class MariaDb:
    """A server that syncs each commit, as Mercury's documentation asks for. root has no password. start() it.

    `options`: further arguments of mariadbd.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # A server that starts removes whatever looks temporary in its tmpdir, and be it another one's.
        own = [f"--datadir={folder / 'data'}", f"--tmpdir={folder}", f"--user={getpass.getuser()}"]
        self._command = [
            program("mariadbd"), "--no-defaults", *own, "--bind-address=127.0.0.1", f"--port={self.port}",
            f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=1", *options,
        ]  # fmt: skip
        install = [program("mariadb-install-db"), "--no-defaults", *own, "--skip-test-db"]
        subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start it with what it has on disk, and come back when it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"mariadbd does not start: {(self._folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)

    def log(self) -> str:
        """What it has written so far."""
        return (self._folder / "log").read_text()

    def recover(self) -> None:
        """Start it again if it has died by itself, or is about to. Comes back when it answers."""
        if not self.answers():
            self.kill()
            self.start()

    def kill(self) -> None:
        """SIGKILL: what a crash of the process is. Harmless when it is not running."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang, with its sockets open, until resume()."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def answers(self) -> bool:
        """Whether it can be talked to."""
        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True

    def database(self, name: str) -> MysqlServer:
        """For a store in this server."""
        return MysqlServer(host="127.0.0.1", port=self.port, user="root", password="", database=name)

    def connect(self, database: str | None = None, **arguments: Any) -> pymysql.Connection[Any]:
        """A connection of the test's own."""
        who = {"user": "root", "autocommit": True, "ssl_disabled": True, **arguments}
        return pymysql.connect(host="127.0.0.1", port=self.port, database=database, **who)

    def query(self, statement: str, *args: object, database: str | None = None) -> list[Any]:
        """What one statement gives, for looking behind the store's back."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, args or None)
            return list(cursor.fetchall())
