"""Programs that tests start: with pipes, or in a terminal whose screen is kept as a person would see it (pyte)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyte
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.support.paths import ROOT

SERVER = (str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=", "mercury")
ADMIN = (sys.executable, "-c", "from mercury.cli.admin import main; main()")
KEYS = (sys.executable, "-c", "from mercury.cli.keys import main; main()")
CLIENT = (sys.executable, "-c", "from mercury.client.main import main; main()")


class Program(ProcessProtocol):
    """A running program. `ended` fires with its exit code, or minus the number of the signal that ended it.

    `descriptors`: the files that it finds open from descriptor 3 on. `environ`: variables beside our own.
    """

    def __init__(
        self,
        argv: Iterable[object],
        terminal: tuple[int, int] | None = None,
        *,
        descriptors: Sequence[int] = (),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.out = b""
        self.err = b""
        self.ended: Deferred[int] = Deferred()
        self.terminal = pyte.Screen(*terminal) if terminal else None
        self._stream = pyte.ByteStream(self.terminal) if self.terminal else None
        words = [str(word) for word in argv]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
        environment.update(environ)
        files: dict[int, Any] = {0: "w", 1: "r", 2: "r", **dict(enumerate(descriptors, 3))}
        spawn: Any = reactor.spawnProcess
        self._process = spawn(
            self,
            words[0],
            words,
            environment,
            str(ROOT),
            usePTY=_pty(*terminal) if terminal else False,
            childFDs=None if terminal else files,
        )

    def outReceived(self, data: bytes) -> None:
        self.out += data
        if self._stream:
            self._stream.feed(data)

    def errReceived(self, data: bytes) -> None:
        self.err += data

    def processEnded(self, reason: Failure) -> None:
        status: Any = reason.value
        self.ended.callback(status.exitCode if status.signal is None else -status.signal)

    def type(self, text: str) -> None:
        """Type it, or write it to the program's standard input."""
        self._process.write(text.encode())

    def end_of_input(self) -> None:
        """Close its standard input."""
        self._process.closeStdin()

    def hang_up(self) -> None:
        """Close its terminal's other end."""
        self._process.loseConnection()

    def screen(self) -> list[str]:
        """The lines of its terminal that are not empty, without what is empty at their ends."""
        assert self.terminal
        return [line.rstrip() for line in self.terminal.display if line.strip()]

    def signal(self, name: str) -> None:
        """Send a signal ("KILL"), if it still runs: to all that runs in its terminal, or to it alone if it has none."""
        if self._process.pid is not None:
            send = os.killpg if self.terminal else os.kill
            send(self._process.pid, signal.Signals[f"SIG{name}"])


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of Mercury's to its end, which it has to come to by itself."""
    argv, environment = list(map(str, words)), {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def _pty(columns: int, lines: int) -> tuple[int, int, str]:
    """A pseudo-terminal of this size, as spawnProcess takes it."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (lines, columns))
    return master, slave, os.ttyname(slave)
