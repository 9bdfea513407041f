"""Redis servers of the tests' own: private processes on free ports of 127.0.0.1, which tests may kill.

Each has its data in a folder of its own. A `durable` server writes every command to disk before it answers.

The benchmark uses this file as well, without pytest, which knows the SkipTest of unittest.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from unittest import SkipTest

START_SECONDS = 30.0


def redis_or_skip() -> str:
    """The redis-server program; where there is none the test is skipped, which CI takes for a failure."""
    found = shutil.which("redis-server")
    if found is None:
        raise SkipTest("redis-server is not installed: apt-get install redis-server (make test does it, as root)")
    return found


class RedisEngine:
    """One redis-server. It is running when it has been made.

    `durable`: appendonly with appendfsync always; else nothing is kept. `options`: further arguments, such as
    ["--databases", "5000"].
    """

    def __init__(
        self, folder: Path, port: int, *, durable: bool = False, password: str = "", options: tuple[str, ...] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            redis_or_skip(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "",
            "--appendonly", "yes" if durable else "no", "--appendfsync", "always", "--logfile", str(folder / "log"),
            *(["--requirepass", password] if password else []), *options,
        ]  # fmt: skip
        self.start()

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it again; it has whatever it had on disk. Returns when it answers."""
        assert self._process is None, "it is running"
        self._process = subprocess.Popen(self._command, cwd=self._folder, stdin=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > end or self._process.poll() is not None:
                self.kill()
                raise RuntimeError(f"redis-server does not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def ask(self, *command: str) -> bytes:
        """The raw reply to one command, on a connection of its own."""
        return self.ask_as(self._password, *command)

    def ask_as(self, password: str, *command: str) -> bytes:
        """The same with another password than the server was started with."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as peer:
            peer.settimeout(5)
            if password:
                peer.sendall(_encoded("AUTH", password))
                peer.recv(100)
            peer.sendall(_encoded(*command))
            return peer.recv(1 << 16)

    def answers(self) -> bool:
        """Whether it can be talked to."""
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def recover(self) -> None:
        """Start it again if it has died by itself, or is about to. Comes back when it answers."""
        if not self.answers():
            self.kill()
            self.start()

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM. Harmless when it is not running."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: its sockets stay, and nothing is answered, until resume()."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(30)


def _encoded(*command: str) -> bytes:
    parts = [f"${len(part.encode())}\r\n{part}\r\n" for part in command]
    return f"*{len(parts)}\r\n{''.join(parts)}".encode()
