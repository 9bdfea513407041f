"""The pipes between the supervisor (`--workers`) and each worker: their messages, and how these are packed.

A worker reports its status in the words of sd_notify(3); the supervisor orders it to stop or to reload. Questions from
one worker to another go through the supervisor, which reads nothing of them but the address. When a pipe breaks, the
process at its other end is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct

VARIABLE: Final = "WORKER_OF_MERCURY"  # holds a WorkerSlot; no name of a setting, so that nobody sets it by mistake
TO_WORKER: Final = 0  # its standard input
FROM_WORKER: Final = 3
FIRST_SOCKET: Final = 4
LONGEST: Final = 16 << 20  # bytes of one message


class WorkerSlot(Struct):
    """Which worker a process is, of how many. `sockets`: the descriptors it listens on, by the settings' section."""

    number: int
    count: int
    sockets: dict[str, int]


class WorkerNotice(Struct, tag="notice"):
    """What a worker would tell systemd if it were the only process."""

    lines: list[str]


class WorkerOrder(Struct, tag="order"):
    """What a worker is to do."""

    what: Literal["stop", "reload"]


class WorkerQuestion(Struct, tag="question"):
    """From one worker to another. `peer`: the receiver on the way to the supervisor, the sender from there on. `id`:
    the sender's own number for it."""

    peer: int
    id: int
    what: str
    args: tuple[str, ...]


class WorkerAnswer(Struct, tag="answer"):
    """The way back. Without a body: that worker is not there, or could not answer."""

    peer: int
    id: int
    body: bytes | None


PipeMessage = WorkerNotice | WorkerOrder | WorkerQuestion | WorkerAnswer

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PipeMessage).decode


def pack(message: PipeMessage) -> bytes:
    """A message as bytes: its length in four of them, then itself."""
    body = _encode(message)
    return len(body).to_bytes(4, "big") + body


class Unpacker:
    """Puts messages together from the bytes that arrive, however they are split."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[PipeMessage]:
        """The messages that are complete now. ValueError or MsgspecError if the bytes are no message."""
        self._rest += data
        while len(self._rest) >= 4:
            length = int.from_bytes(self._rest[:4], "big")
            if length > LONGEST:
                raise ValueError(f"a message of {length} bytes")
            if len(self._rest) < 4 + length:
                return
            body, self._rest = self._rest[4 : 4 + length], self._rest[4 + length :]
            yield _decode(body)


def worker_slot(environ: Mapping[str, str] = os.environ) -> WorkerSlot | None:
    """Which worker this process is; None if it is not a worker."""
    return msgspec.json.decode(environ[VARIABLE], type=WorkerSlot) if VARIABLE in environ else None
