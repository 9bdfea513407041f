"""A real server in a process of its own, on SQLite, to be killed and started again in the same place."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.child_programs import SERVER, Program
from tests.support.recorder import Seen
from tests.support.recording_clients import Where, until

GOTALK = (
    "--gotalk.enabled=true", "--gotalk.address=127.0.0.1/32", "--gotalk.logins-per-minute=0",
    "--gotalk.registrations-per-minute=0",
)  # fmt: skip


class Server:
    """`twistd mercury` with its files in `folder`, on two ports, the same ones whenever it is started. With a third
    one, goTalk's door is open there, and nobody is throttled."""

    def __init__(
        self, folder: Path, ports: tuple[int, int] | tuple[int, int, int], *flags: str, program: Sequence[str] = SERVER
    ) -> None:
        self.database = folder / "mercury.sqlite"
        self.where = Where(*ports)
        self.flags = [
            "--storage.type=sqlite",
            f"--sqlite.path={self.database}",
            f"--server.ws.port={ports[0]}",
            f"--server.api.port={ports[1]}",
            "--server.ws.address=127.0.0.1/32",
            *flags,
        ]
        if self.where.gotalk:
            self.flags += [f"--gotalk.port={self.where.gotalk}", *GOTALK]
        self.program = program
        self.processes: list[Program] = []

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        pid: int = self.processes[-1]._process.pid
        return pid

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        process = Program([*self.program, *self.flags])
        self.processes.append(process)
        while not await self._is_ready():
            assert not process.ended.called, f"the server ended:\n{process.err.decode()}\n{process.out.decode()}"

    async def _is_ready(self) -> bool:
        try:
            return (await self.call("GET", "/readyz"))[0] == 200
        except OSError:
            waited: Deferred[None] = deferToThread(lambda: None)
            await waited
            return False

    async def kill(self) -> None:
        """SIGKILL: it learns nothing of it."""
        await self._end("KILL")

    async def stop(self) -> None:
        """SIGTERM."""
        await self._end("TERM")

    async def _end(self, name: str) -> None:
        process = self.processes[-1]
        process.signal(name)
        await until(lambda: process.ended.called, "the server's end")

    def written(self) -> bytes:
        """All that its processes wrote to their standard outputs: the log and what else there was."""
        return b"".join(process.out + process.err for process in self.processes)

    def resident_kb(self) -> int:
        """Its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # REST

    async def call(self, method: str, path: str, body: object = None, key: str = "") -> tuple[int, Any]:
        """One REST call, with an Idempotency-Key if there is one: the status and the decoded answer."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        return await deferToThread(self._call, method, path, data, headers | ({"Idempotency-Key": key} if key else {}))

    def _call(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        api = http.client.HTTPConnection(self.where.host, self.where.api, timeout=20)
        try:
            api.request(method, path, body, headers)
            response = api.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            api.close()

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        """The body of a call that has to succeed."""
        status, answer = await self.call(method, path, body)
        assert status < 300, answer
        return answer["body"]

    async def token(self, member: str) -> str:
        """A new token."""
        made = await self.ok("POST", "/api/tokens", {"member": member})
        return str(made["token"])

    async def history(self, rid: str, page: int = 100) -> list[Seen]:
        """All messages of a room, oldest first."""
        found: list[Seen] = []
        more = True
        while more:
            after = found[-1].seq if found else 0
            answer = await self.ok("GET", f"/api/rooms/{quote(rid, safe='')}/messages?after={after}&limit={page}")
            found += [Seen(rid, m["seq"], m["id"], "message", m["mid"], m["text"]) for m in answer["messages"]]
            more = answer["more"]
        return found
