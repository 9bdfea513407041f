"""A server for the client's tests: enough of REST and of mercury.v2.json, on 127.0.0.1, that does wrong when told to.

It keeps one log for each room and remembers each cid, as the real one does. `frames` is what clients sent, in order;
`sabotage` is called with each frame before it is handled, and a true result means that the frame is not handled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any, cast

from autobahn.exception import Disconnected
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import ITCPTransport
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

CTIME = "2026-11-22T05:32:54.000001Z"


class Session(WebSocketServerProtocol):
    """One connection."""

    server: FakeServer

    def onConnect(self, request: Any) -> str | None:
        self.server.urls.append(request.path + str(request.params))
        return "mercury.v2.json" if "mercury.v2.json" in request.protocols else None

    def onOpen(self) -> None:
        self.server.sessions.append(self)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self in self.server.sessions:
            self.server.sessions.remove(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        frame = json.loads(payload)
        self.server.frames.append(frame)
        if not self.server.sabotage(self, frame):
            getattr(self, "on_" + frame["type"], lambda _: None)(frame)

    def tell(self, **event: Any) -> None:
        """Send an event."""
        self.tell_raw(json.dumps(event).encode())

    def tell_raw(self, payload: bytes) -> None:
        """Send a frame, whatever it is; on a connection that is closing it is lost."""
        with suppress(Disconnected):
            self.sendMessage(payload)  # type: ignore[no-untyped-call]

    def quit(self, code: int, reason: str) -> None:
        """Close with any code; Autobahn's sendClose lets only an application's own pass."""
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())

    def drop(self) -> None:
        """Close without a word."""
        cast(ITCPTransport, self.transport).abortConnection()

    def on_connect(self, frame: dict[str, Any]) -> None:
        server = self.server
        if frame["token"] not in server.tokens:
            self.tell(type="error", code="unauthorized", reason="the token is unknown")
            self.quit(4401, "the token is unknown, expired or revoked")
            return
        self.tell(
            type="hello", member=frame["member"], device=frame["device"], epoch=server.epoch, heartbeat=10.0, rooms=[]
        )
        resume = frame["resume"] or {"epoch": server.epoch, "rooms": {}}
        for rid, log in server.rooms.items():
            after = resume["rooms"].get(rid, 0)
            if resume["epoch"] != server.epoch:
                after = 0
                self.tell(type="reset", rid=rid, floor=0)
            for entry in log[after:]:
                self.tell(**entry)
            self.tell(type="caught_up", rid=rid, seq=len(log))

    def on_send(self, frame: dict[str, Any]) -> None:
        entry, duplicate = self.server.say(frame["rid"], "1", frame["text"], frame["cid"])
        self.tell(type="ok", ref=frame["ref"], id=entry["id"], seq=entry["seq"], duplicate=duplicate)


class FakeServer:
    """Both ports, and what they know."""

    def __init__(self) -> None:
        self.epoch = "e1"
        self.people: list[Any] = []  # who came by, to be stopped: they would come back, to whoever listens here next
        self.tokens: list[str] = []
        self.calls: list[tuple[str, Any]] = []
        self.urls: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.rooms: dict[str, list[dict[str, Any]]] = {"2333": []}
        self.sessions: list[Session] = []
        self.sabotage: Callable[[Session, dict[str, Any]], bool] = lambda session, frame: False
        self.reply: tuple[int, bytes] | None = None
        self.api_port = self.ws_port = 0
        self._ports: list[Any] = []

    def listen(self) -> None:
        """Open both ports, again the same ones if it is not the first time."""
        factory = WebSocketServerFactory(protocols=["mercury.v2.json"])
        factory.setProtocolOptions(closeHandshakeTimeout=5)  # of whole seconds, rounded down: 1 may be none at all
        factory.protocol = cast(type[Session], type("BoundSession", (Session,), {"server": self}))
        rest = Resource()
        rest.isLeaf = True
        rest.render = self._render  # type: ignore[method-assign]
        listen: Any = reactor.listenTCP
        self._ports = [
            listen(self.api_port, Site(rest), interface="127.0.0.1"),
            listen(self.ws_port, factory, interface="127.0.0.1"),
        ]
        self.api_port, self.ws_port = (port.getHost().port for port in self._ports)

    def close(self) -> Deferred[Any]:
        """Close the ports and drop the connections."""
        ports, self._ports = self._ports, []
        self.drop()
        return gatherResults([Deferred.fromCoroutine(_closed(port)) for port in ports])

    def drop(self) -> None:
        """Drop the connections without a word."""
        for session in tuple(self.sessions):
            session.drop()

    def say(self, rid: str, mid: str, text: str, cid: str | None = None) -> tuple[dict[str, Any], bool]:
        """Append a message and tell all who are connected; a cid known already appends nothing."""
        log = self.rooms[rid]
        known = next((entry for entry in log if cid is not None and entry.get("cid") == cid), None)
        if known is not None:
            return known, True
        seq = len(log) + 1
        entry = {"type": "message", "rid": rid, "seq": seq, "id": 100 + seq, "mid": mid, "text": text, "ctime": CTIME}
        log.append(entry if cid is None else {**entry, "cid": cid})
        for session in self.sessions:
            session.tell(**log[-1])
        return log[-1], False

    def texts(self, rid: str = "2333") -> list[str]:
        """What was said, in order."""
        return [entry["text"] for entry in self.rooms[rid]]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """The frames of one type that clients sent."""
        return [frame for frame in self.frames if frame["type"] == kind]

    def _render(self, request: Request) -> bytes:
        path = request.path.decode()
        body = json.loads(cast(BytesIO, request.content).read() or b"null")
        self.calls.append((path, body or {k.decode(): v[0].decode() for k, v in request.args.items()}))
        request.setHeader("Content-Type", "application/json")
        if self.reply is not None:
            status, answer = self.reply
            request.setResponseCode(status)
            return answer
        if path != "/api/token":
            return b'{"status":"ok"}'
        self.tokens.append(f"token-{len(self.tokens) + 1}")
        return json.dumps({"status": "ok", "body": {"token": self.tokens[-1]}}).encode()


async def _closed(port: Any) -> None:
    await port.stopListening()
