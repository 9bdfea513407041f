"""The two REST calls that the client makes before it connects: get a token, join the room.

Every failure is a MercuryError: the server's own code where it gave one; `unavailable` with the address that was tried
where it gave none.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any, Final, NamedTuple, NoReturn, cast, get_args
from urllib.parse import urlencode

import msgspec
from twisted.internet import error as network
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, ResponseDone, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from mercury.errors import CODES, Code, MercuryError

REPLY_BYTES: Final = 65536
ANSWER_SECONDS: Final = 10.0


class ServerAddress(NamedTuple):
    """Where a server listens. `api_key`: for its REST interface, if that needs one."""

    host: str = "127.0.0.1"
    api_port: int = 6009
    ws_port: int = 6010
    api_key: str = ""

    @property
    def api(self) -> str:
        """The REST address; an IPv6 host stands in brackets (RFC 3986, 3.2.2)."""
        return f"http://{self._bracketed}:{self.api_port}"

    @property
    def ws(self) -> str:
        """The WebSocket address."""
        return f"ws://{self._bracketed}:{self.ws_port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class _Body(msgspec.Struct):
    token: str = ""


class _Reply(msgspec.Struct):
    status: str
    body: _Body | None = None
    error: str = ""
    code: str = ""
    retry_after: float | None = None


class RestClient:
    """The REST interface of one server. Each call ends within ANSWER_SECONDS."""

    def __init__(self, reactor: Any, clock: IReactorTime, server: ServerAddress) -> None:
        self._agent = Agent(reactor, connectTimeout=ANSWER_SECONDS)
        self._clock = clock
        self._base = server.api
        self._key = server.api_key

    async def token(self, member: str) -> str:
        """A new token for a member, who is created if need be. As a query, since a name may hold a slash."""
        reply = await self._call(b"GET", f"/api/token?{urlencode({'member': member})}")
        if reply.body is None or not reply.body.token:
            raise MercuryError("unavailable", f"{self._base} answered without a token")
        return reply.body.token

    async def join(self, rid: str, member: str) -> None:
        """Put a member into a room, which is created if need be. Changes nothing for one who is in it."""
        await self._call(b"POST", "/api/room/add", {"room": rid, "members": [member]})

    async def _call(self, method: bytes, path: str, body: object = None) -> _Reply:
        exchange = Deferred.fromCoroutine(self._exchange(method, path, body))
        try:
            status, answer = await exchange.addTimeout(ANSWER_SECONDS, self._clock)
        except MercuryError:
            raise
        except ResponseNeverReceived:
            hint = "is this machine on the server's --server.api.address?"
            self._fail(f"{self._base} closed the connection without an answer; {hint}")
        except Exception as error:
            self._fail(f"cannot reach {self._base}: {plainly(error)}")
        return self._read(status, answer)

    def _fail(self, reason: str) -> NoReturn:
        raise MercuryError("unavailable", reason) from None

    async def _exchange(self, method: bytes, path: str, body: object) -> tuple[int, bytes]:
        headers = Headers({"User-Agent": ["mercury-client"], "Content-Type": ["application/json"]})
        if self._key:
            headers.addRawHeader("Authorization", f"Bearer {self._key}")
        producer = None if body is None else FileBodyProducer(BytesIO(msgspec.json.encode(body)))
        url = (self._base + path).encode()
        response: IResponse = await self._agent.request(method, url, headers, producer)
        collector = _Collector()
        response.deliverBody(collector)
        return response.code, await collector.whole

    def _read(self, status: int, answer: bytes) -> _Reply:
        try:
            reply = msgspec.json.decode(answer, type=_Reply)
        except msgspec.DecodeError:
            self._fail(f"the server at {self._base} is not Mercury (status {status})")
        if status < 400 and reply.status == "ok":
            return reply
        code = reply.code if reply.code in get_args(Code) else _code_of(status)
        raise MercuryError(cast(Code, code), reply.error or f"{self._base} answered {status}", reply.retry_after)


def _code_of(status: int) -> Code:
    """The first code of an HTTP status, for answers that name none."""
    default: Code = "internal" if status >= 500 else "bad_request"
    return next((code for code, (http, _) in CODES.items() if http == status), default)


class _Collector(Protocol):
    """Collects a body of at most REPLY_BYTES into `whole`."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > REPLY_BYTES:
            self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if self._size <= REPLY_BYTES and reason.check(ResponseDone):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(
                MercuryError("unavailable", f"a REST answer was cut off, or is over {REPLY_BYTES} bytes")
            )

    def _stop(self) -> None:
        cast(IPushProducer, self.transport).stopProducing()


def plainly(error: Exception) -> str:
    """Why connecting failed, in the system's own words: "Connection refused"."""
    if isinstance(error, network.DNSLookupError):
        return "unknown host"
    if isinstance(error, network.TimeoutError | TookTooLong):
        return "no answer in time"
    if isinstance(error, network.ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return str(error).rstrip(".") or type(error).__name__
