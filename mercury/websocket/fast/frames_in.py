"""A fast parser of small, whole, masked text frames and pongs, which are nearly all that a chat's clients send.

Autobahn takes 20 to 30 us for such a frame; parsing it in place takes two. All else (fragments, binary, other control
frames, compression, anything that is not quite right) is left to Autobahn, from that frame's first byte on, so what is
accepted and how the rest is refused stays Autobahn's: ReadingInTurns.consumeData() in mercury/websocket/reading.py is
the plain way. tests/websocket/test_frames_in.py holds both ways to the same results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TEXT: Final = 0x81  # RFC 6455, 5.2: FIN and opcode 1, no RSV bits
PONG: Final = 0x8A  # FIN and opcode 10
MASKED: Final = 0x80


def ones(words: int) -> int:
    """What a key is multiplied by to be repeated so many times."""
    return int.from_bytes(b"\1\0\0\0" * words, "little")


ONES: Final = tuple(ones(words) for words in range(65))  # for most frames; a quarter faster than repeating keys


def unmask(payload: bytes, key: bytes) -> bytes:
    """RFC 6455, 5.3. As one big number: the fastest XOR that Python has."""
    size = len(payload)
    words = size + 3 >> 2
    mask = int.from_bytes(key, "little") * (ONES[words] if words < len(ONES) else ones(words))
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(4 * words, "little")[:size]


def parse_small_frames(
    data: bytes,
    limit: int,
    most: int,
    is_open: Callable[[], bool],
    on_frame: Callable[[bytes, bool], None],
    on_pong: Callable[[bytes], None],
) -> tuple[int, bool]:
    """Hand over the small frames at the beginning of `data`, at most so many. Returns how many bytes they were, and
    whether they were as many frames as there may be.

    `limit`: the longest payload, 0 for any. `is_open` is called after each frame, since handling one may close the
    connection.
    """
    position, end = 0, len(data)
    while end - position >= 6:
        first, second = data[position], data[position + 1]
        start = position + 6
        if second == MASKED + 126 and first == TEXT and end - position >= 8:
            size = data[position + 2] << 8 | data[position + 3]
            start += 2
            if size < 126:  # not the shortest form: an error, and Autobahn's to find
                break
        elif MASKED <= second < MASKED + 126:
            size = second - MASKED
        else:
            break
        stop = start + size
        if stop > end or (limit and size > limit):
            break
        payload = unmask(data[start:stop], data[start - 4 : start])
        if first == TEXT:
            if not payload.isascii() and not _is_utf8(payload):
                break
            position = stop
            on_frame(payload, False)
        elif first == PONG:
            position = stop
            on_pong(payload)
        else:
            break
        most -= 1
        if position == end or not most or not is_open():
            break
    return position, not most


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
