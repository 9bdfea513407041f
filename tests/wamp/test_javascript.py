"""What JavaScript's MessagePack and CBOR libraries write otherwise than WAMP has it is read as its JSON would be."""

from __future__ import annotations

from typing import Any

import cbor2
import msgpack
import pytest
from autobahn.wamp import message as wamp

from mercury.settings.limits import Limits
from mercury.websocket.wamp.messages import Packer, ViolationError

pytestmark = pytest.mark.slow

LARGE = 2**53 - 7
UNDEFINED = {"wamp.2.msgpack": msgpack.ExtType(0, b"\0"), "wamp.2.cbor": cbor2.undefined}


def parse(name: str, raw: list[Any]) -> tuple[wamp.Message, list[Any]]:
    packed = msgpack.packb(raw) if name == "wamp.2.msgpack" else cbor2.dumps(raw)
    return Packer(name, Limits(json_depth=4)).parse(packed, binary=True)


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_key_whose_value_is_undefined_is_not_there(name: str) -> None:
    """As wampy.js subscribes: {match: undefined, get_retained: undefined}."""
    options = {"match": UNDEFINED[name], "after": 3}
    message, raw = parse(name, [wamp.Subscribe.MESSAGE_TYPE, 1, options, "mercury.inbox"])
    assert isinstance(message, wamp.Subscribe)
    assert raw[2] == {"after": 3}


@pytest.mark.parametrize("name", UNDEFINED)
def test_undefined_in_a_list_is_null(name: str) -> None:
    message, _ = parse(name, [wamp.Call.MESSAGE_TYPE, 1, {}, "mercury.send", ["lobby", UNDEFINED[name]]])
    assert isinstance(message, wamp.Call)
    assert message.args == ["lobby", None]


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_large_whole_number_that_comes_as_a_float_is_an_id(name: str) -> None:
    """msgpackr and cbor-x write those above 2**32 so."""
    message, _ = parse(name, [wamp.Unsubscribe.MESSAGE_TYPE, 1, float(LARGE)])
    assert isinstance(message, wamp.Unsubscribe)
    assert message.subscription == LARGE
    for other in (1.5, float("nan"), float("inf"), 1e300):
        with pytest.raises(ViolationError):
            parse(name, [wamp.Unsubscribe.MESSAGE_TYPE, 1, other])


@pytest.mark.parametrize("other", [msgpack.ExtType(0, b""), msgpack.ExtType(1, b"\0")])
def test_what_else_only_messagepack_has_is_refused(other: object) -> None:
    with pytest.raises(ViolationError):
        parse("wamp.2.msgpack", [wamp.Call.MESSAGE_TYPE, 1, {}, "mercury.rooms", [other]])
