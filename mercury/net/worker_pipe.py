"""The line between the process that supervises workers and one of them: what they say on it, and how that is packed.

It is a pipe each way. The worker tells how it is, in the words of sd_notify(3); the supervisor says when to stop or to
reload. What a worker asks another one goes through the supervisor, which looks at nothing but whom it is for. When the
line breaks the other end is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct

VARIABLE: Final = "WORKER_OF_MERCURY"  # holds a Place; no name of a setting, so that nobody sets it by mistake
TO_WORKER: Final = 0  # its standard input
FROM_WORKER: Final = 3
FIRST_SOCKET: Final = 4
LONGEST: Final = 16 << 20  # bytes of one message


class Place(Struct):
    """Which worker a process is. `sockets`: the descriptors that it listens on, by the settings' section."""

    number: int
    count: int
    sockets: dict[str, int]


class Notice(Struct, tag="notice"):
    """What a worker would tell systemd if it were alone."""

    lines: list[str]


class Order(Struct, tag="order"):
    """What a worker is to do."""

    what: Literal["stop", "reload"]


class Question(Struct, tag="question"):
    """From one worker to another: `peer` is for whom it is, and where it arrives from whom. `id`: the asker's own."""

    peer: int
    id: int
    what: str
    args: tuple[str, ...]


class Answer(Struct, tag="answer"):
    """The way back. No body: that worker is not there, or could not answer."""

    peer: int
    id: int
    body: bytes | None


Message = Notice | Order | Question | Answer

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def packed(message: Message) -> bytes:
    """A message as it goes over the line: its length in four bytes, and itself."""
    body = _encode(message)
    return len(body).to_bytes(4, "big") + body


class Unpacker:
    """Makes messages of what comes from the other end, however it is cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole now. ValueError, or msgspec's kind of it, if this is none of ours."""
        self._rest += data
        while len(self._rest) >= 4:
            length = int.from_bytes(self._rest[:4], "big")
            if length > LONGEST:
                raise ValueError(f"a message of {length} bytes")
            if len(self._rest) < 4 + length:
                return
            body, self._rest = self._rest[4 : 4 + length], self._rest[4 + length :]
            yield _decode(body)


def place_of(environ: Mapping[str, str] = os.environ) -> Place | None:
    """Which worker this process is; None if it is none."""
    return msgspec.json.decode(environ[VARIABLE], type=Place) if VARIABLE in environ else None
