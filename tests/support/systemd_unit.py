"""A server as systemd runs it: it is passed listening sockets, which stay open here while it is restarted
(sd_listen_fds(3)), and what it tells of itself is heard (sd_notify(3)).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support.child_programs import SERVER, Program
from tests.support.recording_clients import until
from tests.support.server_process import Server

#: Says whom the sockets are for, whose process number nobody knows before it runs.
FOR_ITSELF: Final = ("/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"')
BACKLOG: Final = 4096  # as in debian/mercury.socket


class Unit(Server):
    """`mercury.service` with its two sockets on `host`. `heard`: each line of what it has told, in order.

    `watchdog`: seconds within which it has to say that it is alive, 0 if nobody wants to know; nothing is done to it
    for not saying so. `abstract`: it is heard at an address that is no file.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        host: str = "127.0.0.1",
        watchdog: float = 0.0,
        abstract: bool = False,
        program: Sequence[str] = SERVER,
    ) -> None:
        self.sockets = [_listening(host) for _ in range(2)]
        ports = [listening.getsockname()[1] for listening in self.sockets]
        super().__init__(folder, (ports[0], ports[1]), *flags, program=(*FOR_ITSELF, *program))
        self.where = self.where._replace(host=host)
        self.heard: list[str] = []
        address = f"@mercury-{ports[0]}" if abstract else str(folder / "notify")
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notices.bind("\0" + address[1:] if abstract else address)
        self._environ = {"NOTIFY_SOCKET": address, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "mercury.socket:mercury.socket"}
        if watchdog:
            self._environ["WATCHDOG_USEC"] = str(round(watchdog * 1_000_000))

    def listen(self) -> list[str]:
        """All that it has told so far."""
        with suppress(BlockingIOError):
            while True:
                self.heard += self._notices.recv(65536).decode().splitlines()
        return self.heard

    async def hears(self, line: str, times: int = 1) -> None:
        """Wait until it has told this, so many times."""
        process = self.processes[-1]

        def told() -> bool:
            assert not process.ended.called or self.listen().count(line) >= times, self.written()[-3000:].decode()
            return self.listen().count(line) >= times

        await until(told, lambda: f"{line} (x{times}) among {self.listen()}")

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        ready = self.listen().count("READY=1")
        files = [listening.fileno() for listening in self.sockets]
        self.processes.append(Program([*self.program, *self.flags], descriptors=files, environ=self._environ))
        await self.hears("READY=1", ready + 1)

    async def restart(self) -> None:
        """`systemctl restart`."""
        await self.stop()
        await self.start()

    async def reload(self) -> None:
        """`systemctl reload`, and wait until it says that it is done."""
        ready, reloading = (self.listen().count(line) for line in ("READY=1", "RELOADING=1"))
        self.processes[-1].signal("HUP")
        await self.hears("RELOADING=1", reloading + 1)
        await self.hears("READY=1", ready + 1)

    async def close(self) -> None:
        """End it if it runs, and let the sockets go."""
        if self.processes and not self.processes[-1].ended.called:
            await self.kill()
        for open_one in (*self.sockets, self._notices):
            open_one.close()


def _listening(host: str) -> socket.socket:
    """A socket that listens on a free port. It is blocking, as systemd's are."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, 0))
    listening.listen(BACKLOG)
    return listening


def waiting_room(listening: socket.socket) -> int:
    """How many connections may wait to be accepted (tcp_info.tcpi_sacked, which is that where a socket listens)."""
    return int.from_bytes(listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)[28:32], sys.byteorder)
