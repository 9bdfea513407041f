"""A chat room made of python-socketio on uvicorn and uvloop: an event in, numbered, an event out to all of the room.
Nothing is stored.

python socketio_room.py PORT
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from typing import Any

import socketio
import uvicorn

IDS = count(1)
SEQS: Counter[str] = Counter()  # by room

sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], http_compression=False)


async def connect(sid: str, environ: dict[str, Any], auth: object) -> None:
    """Somebody comes: into the room that the URL names."""
    query = dict(pair.split("=", 1) for pair in environ["QUERY_STRING"].split("&"))
    await sio.save_session(sid, {"room": query["token"], "member": query["member"]})
    await sio.enter_room(sid, query["token"])


async def message(sid: str, said: dict[str, Any]) -> None:
    """They say something."""
    session = await sio.get_session(sid)
    room = session["room"]
    SEQS[room] += 1
    told = {"id": next(IDS), "seq": SEQS[room], "mid": session["member"], "rid": room}
    await sio.emit("message", told | {"ctime": datetime.now(UTC).isoformat(), "text": said["text"]}, to=room)


sio.on("connect", connect)
sio.on("message", message)

if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(sio),
        port=int(sys.argv[1]),
        loop="uvloop",
        ws="websockets",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="warning",
        backlog=4096,
    )
