"""What Mercury and systemd say to each other: the sockets that it passes, and how Mercury does.

sd_listen_fds(3): a listener takes the socket that systemd passes for its port. It stays with systemd while Mercury is
restarted, so that no connection is refused. sd_notify(3): Mercury says when it is ready, reloads or stops,
and that it is alive (sd_watchdog_enabled(3)). Started by anything else, it does without.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mercury.settings.types import ConfigError

FIRST = 3  # SD_LISTEN_FDS_START
STANDARD_ERROR = 2  # Twisted has made sys.stderr write to the log
SEND_SECONDS = 1.0  # for systemd to take a notice
PATIENCE_SECONDS = 60.0  # that opening the store asks for, again and again while it lasts
MICROSECONDS = 1_000_000


def sockets(environ: Mapping[str, str], first: int = FIRST) -> dict[int, str]:
    """The endpoints of the TCP sockets that systemd has passed, by their ports. ConfigError if they cannot be used.

    Twisted, whose endpoints take them, has removed LISTEN_PID and LISTEN_FDS by now; it leaves the names.
    """
    names = environ.get("LISTEN_FDNAMES", "")
    found: dict[int, str] = {}
    for index, name in enumerate(names.split(":") if names else ()):
        try:
            with socket.socket(fileno=os.dup(first + index)) as passed:
                family, address = passed.family.name.removeprefix("AF_"), passed.getsockname()
        except OSError as error:
            raise ConfigError(f"what systemd passes from {name} is no socket: {error.strerror}") from None
        if isinstance(address, tuple):
            if address[1] in found:
                raise ConfigError(f"{name} passes two sockets for port {address[1]}; one for IPv6 takes IPv4 as well")
            found[address[1]] = f"systemd:domain={family}:index={index}"
    return found


class Systemd:
    """The one that started this process, if it wants to hear of it (`listens`); else nothing is said.

    `watchdog`: seconds within which it wants to hear of it, 0 if it does not. `healthy`: asked before it is told that
    Mercury is alive. `line`: who is told in systemd's place, if anybody is.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        healthy: Callable[[], bool],
        environ: MutableMapping[str, str] = os.environ,
        line: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._line = line
        self._healthy = healthy
        self._well = True
        self._serving = False
        watched = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog = int(environ.get("WATCHDOG_USEC", "0")) / MICROSECONDS if watched else 0.0
        self._opening = LoopingCall(self._ask_for_time, PATIENCE_SECONDS)
        self._living = LoopingCall(self._live)
        self._opening.clock = self._living.clock = clock

    @property
    def listens(self) -> bool:
        """Whether there is a systemd that hears what is said."""
        return bool(self._address or self._line)

    def opening(self) -> None:
        """The store is being opened, which may take long if it is brought to a new version."""
        if self.listens:
            self._tell("STATUS=opening the store")
            self._opening.start(PATIENCE_SECONDS / 4)

    def ready(self, status: str) -> None:
        """Whoever waits for Mercury may go on. From now on systemd is told that it is alive, if it wants to know.

        It ends a process that it does not hear of with SIGABRT; then the log says where each thread was.
        """
        self._stop(self._opening)
        self._serving = True
        self._tell("READY=1", f"STATUS={status}")
        if self.listens and self.watchdog:
            faulthandler.enable(STANDARD_ERROR)
            self._living.start(self.watchdog / 2)

    def reload(self, work: Callable[[], Any]) -> None:
        """Do it, which may take a Deferred's time, and say when it begins and when it is done."""
        if self._serving:
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        reloading = maybeDeferred(work)
        reloading.addErrback(lambda failure: self.log.failure("reloading failed", failure))
        reloading.addCallback(lambda _: self._tell("READY=1") if self._serving else None)

    def failed(self, why: str) -> None:
        """Mercury cannot start."""
        self._stop(self._opening)
        self._tell(f"STATUS={' '.join(why.split())}")

    def stopping(self, seconds: float) -> None:
        """Mercury stops, which may take so long."""
        self._serving = False
        self._stop(self._opening)
        self._tell("STOPPING=1", "STATUS=telling clients to come back")
        self._ask_for_time(seconds)

    def _ask_for_time(self, seconds: float) -> None:
        self._tell(f"EXTEND_TIMEOUT_USEC={round(seconds * MICROSECONDS)}")

    def _live(self) -> None:
        """The reactor turns. Whether that is all can be said."""
        well = self._healthy()
        if well:
            self._tell("WATCHDOG=1")
        elif self._well:
            self.log.critical("the store has neither done nor refused what it was given: systemd will restart Mercury")
        self._well = well

    def _stop(self, call: LoopingCall) -> None:
        if call.running:
            call.stop()

    def _tell(self, *lines: str) -> None:
        """Send one notice."""
        if self._line is not None:
            self._line(lines)
        elif self._address:
            self._send(lines)

    def _send(self, lines: Sequence[str]) -> None:
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
                notices.settimeout(SEND_SECONDS)
                notices.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            self.log.warn("systemd cannot be told {what}: {why}", what=lines[0], why=error.strerror or str(error))
