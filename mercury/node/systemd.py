"""Mercury under systemd: the sockets that systemd passes, and the notifications that it gets.

sd_listen_fds(3): a listener takes the socket that systemd passes for its port. systemd keeps it while Mercury restarts,
so that no connection is refused. sd_notify(3): Mercury reports that it is ready, reloads or stops, and that it is alive
(sd_watchdog_enabled(3)). Without systemd all of this does nothing.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mercury.settings.types import ConfigError

FIRST: Final = 3  # SD_LISTEN_FDS_START
STANDARD_ERROR: Final = 2  # Twisted has made sys.stderr write to the log
SEND_SECONDS: Final = 1.0  # for systemd to take a notification
EXTEND_SECONDS: Final = 60.0  # that opening the store asks for, again and again while it lasts
MICROSECONDS: Final = 1_000_000

_log = Logger()


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
            raise ConfigError(f"{name} passes something that is not a socket: {error.strerror}") from None
        if isinstance(address, tuple):
            if address[1] in found:
                raise ConfigError(
                    f"{name} passes two sockets for port {address[1]}; keep the IPv6 one, which also accepts IPv4"
                )
            found[address[1]] = f"systemd:domain={family}:index={index}"
    return found


class Systemd:
    """Sends systemd notifications, if it asked for them (`listens`).

    `watchdog`: the seconds within which it expects to hear that Mercury is alive; 0 if it does not. `healthy`: whether
    that may be said now. `forward`: gets the notifications in systemd's place; a worker's go to its supervisor.
    """

    def __init__(
        self,
        clock: Any,
        healthy: Callable[[], bool],
        environ: MutableMapping[str, str] = os.environ,
        forward: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._forward = forward
        self._healthy = healthy
        self._well = True
        self._serving = False
        watched = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog = int(environ.get("WATCHDOG_USEC", "0")) / MICROSECONDS if watched else 0.0
        self._opening = LoopingCall(self._ask_for_time, EXTEND_SECONDS)
        self._living = LoopingCall(self._live)
        self._opening.clock = self._living.clock = clock

    @property
    def listens(self) -> bool:
        """Whether anybody gets the notifications."""
        return bool(self._address or self._forward)

    def opening(self) -> None:
        """The store is being opened, which may take long if it is brought to a new version."""
        if self.listens:
            self._notify("STATUS=opening the store")
            self._opening.start(EXTEND_SECONDS / 4)

    def ready(self, status: str) -> None:
        """Mercury is ready: services that wait for it may start. From now on the watchdog hears that it is alive.

        systemd ends a silent process with SIGABRT; then the log says where each thread was.
        """
        self._stop(self._opening)
        self._serving = True
        self._notify("READY=1", f"STATUS={status}")
        if self.listens and self.watchdog:
            faulthandler.enable(STANDARD_ERROR)
            self._living.start(self.watchdog / 2)

    def reload(self, work: Callable[[], Any]) -> None:
        """Do the work, which may return a Deferred; systemd hears when it begins and when it is done."""
        if self._serving:
            self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        reloading = maybeDeferred(work)
        reloading.addErrback(lambda failure: _log.failure("reloading failed", failure))
        reloading.addCallback(lambda _: self._notify("READY=1") if self._serving else None)

    def failed(self, why: str) -> None:
        """Mercury cannot start."""
        self._stop(self._opening)
        self._notify(f"STATUS={' '.join(why.split())}")

    def stopping(self, seconds: float) -> None:
        """Mercury stops, which may take this many seconds."""
        self._serving = False
        self._stop(self._opening)
        self._notify("STOPPING=1", "STATUS=telling clients to reconnect")
        self._ask_for_time(seconds)

    def _ask_for_time(self, seconds: float) -> None:
        self._notify(f"EXTEND_TIMEOUT_USEC={round(seconds * MICROSECONDS)}")

    def _live(self) -> None:
        """The reactor runs; say so, if the store works too."""
        well = self._healthy()
        if well:
            self._notify("WATCHDOG=1")
        elif self._well:
            _log.critical("a write to the store has neither succeeded nor failed: systemd will restart Mercury")
        self._well = well

    def _stop(self, call: LoopingCall) -> None:
        if call.running:
            call.stop()

    def _notify(self, *lines: str) -> None:
        """Send one notification."""
        if self._forward is not None:
            self._forward(lines)
        elif self._address:
            self._send(lines)

    def _send(self, lines: Sequence[str]) -> None:
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.warn("cannot notify systemd of {what}: {why}", what=lines[0], why=error.strerror or str(error))
