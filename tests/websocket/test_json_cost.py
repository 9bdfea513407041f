"""What one JSON frame of a stranger's may cost, in the protocols that are not WAMP: about as much as it is long."""

from __future__ import annotations

import pytest

from mercury.domain import commands
from mercury.settings.limits import Limits
from mercury.websocket.subprotocols.codec import Codec
from mercury.websocket.subprotocols.v1 import V1
from mercury.websocket.subprotocols.v2 import V2
from tests.support.cpu_cost import bounded_by

pytestmark = pytest.mark.alone

SIZE = 200_000  # bytes, about: what costs more than in proportion shows

FRAMES = [
    b"[" * SIZE,
    b'{"a":' * (SIZE // 5),
    b"[" * 33 + b'"' + b'\\"' * (SIZE // 2),  # a string that does not end
    b"[" * 33 + b'"' + b"\\\\" * (SIZE // 2) + b"\\",
    b"[" * 33 + b'""' * (SIZE // 2),
    b'{"ref":' + b"9" * SIZE + b"}",
    b'{"ref":1e' + b"9" * SIZE + b"}",
    b'{"type":1,"ref":"' + b"x" * SIZE + b'"}',
    b'{"type":1,"rid":"r","text":"x",' + b",".join(b'"%d":0' % n for n in range(SIZE // 10)) + b"}",
    b'{"rid":"r","text":' + b'"\\ud800"' * (SIZE // 8) + b"}",
    b'{"type":2,"msgid":' + b"1" * SIZE + b"}",
    b'{"type":"history","rid":"r","limit":0.' + b"1" * SIZE + b"}",
    b" " * SIZE,
    b"[" + b"{}," * (SIZE // 3) + b"{}]",
]


@pytest.mark.parametrize("codec", [V1(Limits()), V2(Limits())], ids=["v1", "v2"])
@pytest.mark.parametrize("number", range(len(FRAMES)))
def test_a_frame_costs_about_as_much_as_it_is_long(codec: Codec, number: int) -> None:
    with bounded_by(SIZE):
        command = codec.decode(FRAMES[number], False)
    assert isinstance(command, commands.Bad | commands.Send)
