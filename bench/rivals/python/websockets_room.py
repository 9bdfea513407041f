"""A chat room made of websockets on uvloop: JSON in, numbered, JSON out to everyone in the room. Nothing is stored.

python websockets_room.py PORT

broadcast() prepares a frame once for all. Without compression and pings of its own, as it is fastest.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from itertools import count
from urllib.parse import parse_qs, urlsplit

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

IDS = count(1)


class Room:
    """Who is in it, and how many messages there were."""

    def __init__(self) -> None:
        self.members: set[ServerConnection] = set()
        self.seqs = count(1)


ROOMS: dict[str, Room] = {}


async def chat(connection: ServerConnection) -> None:
    """One member, from coming to going."""
    assert connection.request
    query = parse_qs(urlsplit(connection.request.path).query)
    name, member = query["token"][0], query["member"][0]
    room = ROOMS.setdefault(name, Room())
    room.members.add(connection)
    try:
        async for said in connection:
            told = {"id": next(IDS), "seq": next(room.seqs), "mid": member, "rid": name}
            told |= {"ctime": datetime.now(UTC).isoformat(), "text": json.loads(said)["text"]}
            broadcast(room.members, json.dumps(told, separators=(",", ":")))
    finally:
        room.members.discard(connection)


async def main() -> None:
    options = {"compression": None, "ping_interval": None, "backlog": 4096}
    async with serve(chat, "127.0.0.1", int(sys.argv[1]), **options) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
