"""A chat room made of Autobahn, on which Mercury stands: JSON in, numbered, JSON out to all of the room. Nothing is
stored. With --echo it is only an echo.

python autobahn_room.py [--echo] PORT

A frame is prepared once for all, by its sendPreparedMessage().
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from itertools import count

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet import reactor

IDS = count(1)


class Echo(WebSocketServerProtocol):
    """Sends each message back."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)  # type: ignore[no-untyped-call]  # Autobahn's


class Room:
    """Who is in it, and how many messages there were."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.seqs = count(1)


ROOMS: dict[str, Room] = {}


class Member(WebSocketServerProtocol):
    """One connection."""

    def onConnect(self, request: ConnectionRequest) -> None:
        self.name, self.member = request.params["token"][0], request.params["member"][0]
        self.room = ROOMS.setdefault(self.name, Room())

    def onOpen(self) -> None:
        self.room.members.add(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        told = {"id": next(IDS), "seq": next(self.room.seqs), "mid": self.member, "rid": self.name}
        told |= {"ctime": datetime.now(UTC).isoformat(), "text": json.loads(payload)["text"]}
        frame = self.factory.prepareMessage(json.dumps(told, separators=(",", ":")).encode())
        for other in self.room.members:
            other.sendPreparedMessage(frame)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if hasattr(self, "room"):
            self.room.members.discard(self)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    factory = WebSocketServerFactory()
    factory.protocol = Echo if options.echo else Member
    reactor.listenTCP(options.port, factory, backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
