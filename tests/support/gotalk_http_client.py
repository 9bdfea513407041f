"""An ordinary HTTP client of goTalk's, as its old ones are: the standard library's, one connection a call, in a thread.

And the servers that it calls: each of the four stores, to be killed and started again.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from twisted.internet.threads import deferToThread

from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine
from tests.support.server_process import Server

STORES = ("memory", "sqlite", "mysql", "redis")


class Said(NamedTuple):
    """What was answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Calls goTalk's port. `cookie`: what /login set last, sent along if `as_browser`."""

    def __init__(self, port: int, as_browser: bool = False) -> None:
        self.port = port
        self.as_browser = as_browser
        self.cookie = ""

    async def get(self, path: str) -> Said:
        """Look at a page."""
        return await deferToThread(self._call, "GET", path, None, {})

    async def post(self, path: str, as_json: bool = False, /, **fields: object) -> Said:
        """Make a call; whatever it answers."""
        body = json.dumps(fields) if as_json else urlencode(fields)
        kind = "application/json" if as_json else "application/x-www-form-urlencoded"
        return await deferToThread(self._call, "POST", path, body.encode(), {"Content-Type": kind})

    async def call(self, path: str, as_json: bool = False, /, **fields: object) -> Any:
        """Make a call that succeeds; what it answers."""
        said = await self.post(path, as_json, **fields)
        assert said.status == 200, said.body
        return said.json

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Said:
        if self.as_browser and self.cookie:
            headers["Cookie"] = self.cookie
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            said = Said(answer.status, answer.headers, answer.read())
        finally:
            connection.close()
        self.cookie = said.headers.get("Set-Cookie", self.cookie).partition(";")[0]
        return said


class GotalkWithEngine:
    """A server with goTalk's door open, on one of the stores, and what that needs beside."""

    def __init__(
        self, folder: Path, kind: str, free_port: Callable[[], int], mariadb: Callable[[], MariaDb], *flags: str
    ) -> None:
        self.redis: RedisEngine | None = None
        self.gotalk = free_port()
        own = ["--gotalk.enabled", f"--gotalk.port={self.gotalk}", "--gotalk.address=127.0.0.1", *flags]
        if kind == "mysql":
            where = mariadb().database(f"gotalk_{self.gotalk}")
            own += ["--mysql.host=127.0.0.1", f"--mysql.port={where.port}", f"--mysql.database={where.database}"]
        elif kind == "redis":
            self.redis = RedisEngine(folder / "redis", free_port(), durable=True)
            own += ["--redis.host=127.0.0.1", f"--redis.port={self.redis.port}"]
        self.flags = [f"--storage.type={kind}", *own]
        self.server = Server(folder, (free_port(), free_port()), *self.flags)

    async def __aenter__(self) -> GotalkWithEngine:
        await self.server.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.server.kill()
        if self.redis is not None:
            self.redis.stop()
