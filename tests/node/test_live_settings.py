"""Each setting that is declared to change at a reload does: what it decides is another thing right after it, on the
same process and, where that makes sense, on the same connection.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlencode

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mercury.domain import close_codes, commands
from mercury.domain.model import Cursor
from mercury.errors import MercuryError
from mercury.node import service
from mercury.rest.api_keys import new_key
from mercury.settings.sources import SETTINGS
from tests.support.in_process_node import reactor, until
from tests.support.websocket_bytes import masked
from tests.support.whole_node import FORM, V2, WholeNode, proxied

KEY, HASH = new_key()
DEFLATE: Final = "Sec-WebSocket-Extensions: permessage-deflate"
PASSWORD: Final = "correct horse"

Probe = Callable[[WholeNode], Awaitable[Any]]


@dataclass
class Case:
    """What a setting decides. `expected`: for two values, what `probe` finds with each. `flags`: others it needs."""

    expected: Mapping[str, Any]
    probe: Probe
    flags: Mapping[str, str]


CASES: dict[str, Case] = {}


def decides(path: str, expected: Mapping[str, Any], **flags: str) -> Callable[[Probe], Probe]:
    def declare(probe: Probe) -> Probe:
        more = {name.replace("__", ".").replace("_", "-"): value for name, value in flags.items()}
        CASES[path] = Case(expected, probe, more)
        return probe

    return declare


def live() -> set[str]:
    return {path for path, setting in SETTINGS.items() if setting.live and not setting.twin}


def test_each_live_setting_is_tried() -> None:
    assert CASES.keys() == live()


@pytest.mark.parametrize("path", sorted(live()))
@ensureDeferred
async def test_it_changes(path: str) -> None:
    case = CASES[path]
    (first, before), (then, after) = case.expected.items()
    assert before != after
    async with WholeNode({**case.flags, path: first}) as node:
        assert await case.probe(node) == before
        node.reload(path, then)
        assert await case.probe(node) == after
        node.reload(path, first)
        assert await case.probe(node) == before


async def code_of(work: Awaitable[Any]) -> str:
    """The code with which something is refused, or ok."""
    try:
        await work
    except MercuryError as error:
        return error.code
    return "ok"


# Who may connect


HERE_OR_NOT: Final = {"127.0.0.1": 200, "192.0.2.1": 0}
HAPROXY: Final = "haproxy:tcp:0:interface=127.0.0.1"


@decides("server.api.address", HERE_OR_NOT, server__api__endpoint="tcp:0:interface=127.0.0.1")
async def _(node: WholeNode) -> int:
    return await node.status("server.api", "GET", "/healthz")


@decides("server.api.proxies", HERE_OR_NOT, server__api__endpoint=HAPROXY, server__api__address="192.0.2.7")
async def _(node: WholeNode) -> int:
    return await node.status("server.api", "GET", "/healthz", before=proxied("192.0.2.7"))


@decides("server.api.keys", {"": 200, f"shop:{HASH}": 401})
async def _(node: WholeNode) -> int:
    if node.flags["server.api.keys"]:
        assert await node.status("server.api", "GET", "/api/rooms", b"", f"Authorization: Bearer {KEY}") == 200
    return await node.status("server.api", "GET", "/api/rooms")


@decides("server.ws.address", {"127.0.0.1": 101, "192.0.2.1": 0}, server__ws__endpoint="tcp:0:interface=127.0.0.1")
async def _(node: WholeNode) -> int:
    return await node.upgraded()


@decides("server.ws.proxies", {"127.0.0.1": 101, "192.0.2.1": 0}, server__ws__endpoint=HAPROXY)
async def _(node: WholeNode) -> int:
    return await node.upgraded(before=proxied("127.0.0.1"))


@decides("server.ws.origins", {"*": 101, "https://*.example": 403})
async def _(node: WholeNode) -> int:
    return await node.upgraded(V2, "Origin: https://a.b")


@decides("server.ws.compression", {"false": False, "true": True})
async def _(node: WholeNode) -> bool:
    return b"permessage-deflate" in (await node.handshake(V2, DEFLATE)).data


@decides("wamp.realm", {"mercury": "welcome on", "other": "wamp.error.no_such_realm"})
async def _(node: WholeNode) -> str:
    return await wamp_hello(node)


@decides("wamp.authmethods", {"ticket": "welcome on", "wampcra": "wamp.error.no_matching_auth_method"})
async def _(node: WholeNode) -> str:
    return await wamp_hello(node)


async def wamp_hello(node: WholeNode) -> str:
    """What a client is answered who says HELLO and has a ticket: that it goes on, or why not."""
    client = await node.handshake("Sec-WebSocket-Protocol: wamp.2.json")
    details = {"roles": {"caller": {}}, "authmethods": ["ticket"], "authid": "ann"}
    before = len(client.data)
    client.write(masked(json.dumps([1, "mercury", details]).encode()))
    await until(lambda: len(client.data) > before and client.data.find(b"]", before) > 0)
    kind, *rest = json.loads(client.data[client.data.index(b"[", before) : client.data.rindex(b"]") + 1])
    return "welcome on" if kind == 4 else str(rest[-1])


# goTalk's door


async def post(node: WholeNode, path: str, **fields: object) -> Any:
    return await node.http("gotalk", "POST", path, urlencode(fields).encode(), FORM)


async def register(node: WholeNode, **fields: object) -> int:
    answer = await post(node, "/register", **{"username": node.member(), "password": PASSWORD, **fields})
    return int(answer.status)


@decides("gotalk.address", HERE_OR_NOT, gotalk__endpoint="tcp:0:interface=127.0.0.1")
async def _(node: WholeNode) -> int:
    return await node.status("gotalk", "POST", "/logout", b"", FORM)


@decides("gotalk.proxies", HERE_OR_NOT, gotalk__endpoint=HAPROXY)
async def _(node: WholeNode) -> int:
    return await node.status("gotalk", "POST", "/logout", b"", FORM, before=proxied("127.0.0.1"))


@decides("gotalk.secure", {"false": False, "true": True})
async def _(node: WholeNode) -> bool:
    return "Secure" in (await post(node, "/logout")).headers["set-cookie"]


@decides("gotalk.connections", {"10": 200, "1": 0})
@decides("gotalk.connections-per-address", {"10": 200, "1": 0})
async def _(node: WholeNode) -> int:
    return await beside_another(node, "gotalk", "/logout")


@decides("server.api.connections", {"10": 201, "1": 0})
async def _(node: WholeNode) -> int:
    return await beside_another(node, "server.api", "/api/tokens", b'{"member":"ann"}')


async def beside_another(node: WholeNode, listener: str, path: str, body: bytes = b"") -> int:
    """The status of a request while there is another connection."""
    (door,) = [one.factory for one in node.service.listenings if one.section == listener]
    if not door.total:
        await node.connect(listener)
    await until(lambda: door.total == 1)
    return await node.status(listener, "POST", path, body, FORM)


@decides("gotalk.registration", {"open": 200, "closed": 403})
async def _(node: WholeNode) -> int:
    return await register(node)


@decides("gotalk.invite", {"a": 200, "b": 403}, gotalk__registration="invite")
async def _(node: WholeNode) -> int:
    return await register(node, invite="a")


@decides("gotalk.password-least", {"8": 400, "4": 200})
async def _(node: WholeNode) -> int:
    return await register(node, password="12345")


@decides("gotalk.friends", {"2": 200, "1": 413}, gotalk__registrations_per_minute="0")
async def _(node: WholeNode) -> int:
    name = node.member()
    ids = [(await post(node, "/register", username=one, password=PASSWORD)).json["Id"] for one in (name, f"{name}x")]
    ids.append((await post(node, "/register", username=f"{name}y", password=PASSWORD)).json["Id"])
    token = (await post(node, "/login", username=name, password=PASSWORD)).json["SessionID"]
    answers = [await post(node, "/addfriend", id=ids[0], token=token, friendid=friend) for friend in ids[1:]]
    return int(answers[-1].status)


@decides("gotalk.logins-per-minute", {"0": 401, "1": 429})
async def _(node: WholeNode) -> int:
    name = node.member()
    answers = [await post(node, "/login", username=name, password="wrong") for _ in range(3)]
    return int(answers[-1].status)


@decides("gotalk.registrations-per-minute", {"0": 200, "1": 429})
async def _(node: WholeNode) -> int:
    return [await register(node) for _ in range(3)][-1]


# The log, tokens, stopping


@decides("log.level", {"error": False, "debug": True})
async def _(node: WholeNode) -> bool:
    Logger().debug("a detail")
    return "a detail" in node.raw_log()


@decides("log.format", {"json": "{", "logfmt": "t"})
async def _(node: WholeNode) -> str:
    node.raw_log()
    Logger().info("a line")
    return node.raw_log()[0]


@decides("token.ttl", {"60": 60, "3600": 3600})
async def _(node: WholeNode) -> int:
    node.chat.tokens._wall = lambda: 0.0
    return (await node.chat.tokens.make("ann"))[1] // 1_000_000


@decides("drain.seconds", {"0": 3, "5": 2})
async def _(node: WholeNode) -> int:
    """How many of three connections are closed at once."""
    ears = [await node.listen(node.member()) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(service, "RETURN_RATE", 10.0)
        closing_them = Deferred.fromCoroutine(node.service._close_sessions())
        closed = sum(ear.closed_with is not None for ear in ears)
        await closing_them
    return closed


# Limits


@decides("limits.frame-bytes", {"65536": b"error", "100": b"\x03\xf1"})
async def _(node: WholeNode) -> bytes:
    """On the connection that was open before: an answer, or a close frame with 1009."""
    said = await node.say(b'{"type":"nothing","x":"' + b"x" * 200 + b'"}', 4)
    found = next(mark for mark in (b"\x03\xf1", b"error") if mark in said)
    if found != b"error":
        node._open = None
    return found


@decides("limits.text-bytes", {"100": "ok", "1": "too_large"})
async def _(node: WholeNode) -> str:
    await node.chat.rooms.join("r", ["ann"])
    return await code_of(node.chat.rooms.post("ann", "r", "hello"))


@decides("limits.body-bytes", {"1000": 400, "128": 413})
async def _(node: WholeNode) -> int:
    return await node.status("server.api", "POST", "/api/tokens", b" " * 500)


@decides("limits.request-seconds", {"60": False, "0.05": True})
async def _(node: WholeNode) -> bool:
    """Whether a connection that asks nothing is hung up on meanwhile."""
    wiretap = await node.connect("server.api")
    await deferLater(reactor, 0.5)
    return wiretap.over


@decides("limits.handshake-seconds", {"0": (None, 0), "60": (60, 61)})
async def _(node: WholeNode) -> tuple[int | None, int]:
    """For the handshake, and then for the first frame."""
    before = set(node.chat.heartbeat.everybody())
    await node.handshake(V2)
    (session,) = [one for one in node.chat.heartbeat.everybody() if one not in before]
    timer = cast(Any, session)._timer
    connection: Any = session.connection
    return timer and round(timer.getTime() - reactor.seconds()), connection.openHandshakeTimeout


@decides("limits.ping-seconds", {"25": 25.0, "10": 10.0})
async def _(node: WholeNode) -> float:
    return float((await node.listen(node.member())).said("hello")[0]["heartbeat"])


@decides("limits.drain-seconds", {"3600": None, "20": close_codes.TOO_SLOW.code})
async def _(node: WholeNode) -> int | None:
    """What a connection is closed with that takes nothing for one turn of 25 seconds."""
    ear = await node.listen(node.member())
    ear.session.slow()
    ear.session.beat()
    return ear.closed_with


@decides("limits.connections", {"100": 101, "1": 0})
async def _(node: WholeNode) -> int:
    return await second_connection(node)


@decides("limits.connections-per-address", {"100": 101, "1": 0})
async def _(node: WholeNode) -> int:
    return await second_connection(node)


async def second_connection(node: WholeNode) -> int:
    """The status of a handshake while there is another connection."""
    await node.say(b"{}")
    (door,) = [one.factory for one in node.service.listenings if one.section == "server.ws"]
    status = await node.upgraded()
    for wiretap in node._wiretaps[1:]:
        wiretap.drop()
    await until(lambda: door.total == 1)
    return status


@decides("limits.connections-per-member", {"2": None, "1": close_codes.BUSY.code})
async def _(node: WholeNode) -> int | None:
    member = node.member()
    await node.listen(member)
    return (await node.listen(member)).closed_with


@decides("limits.messages-per-second", {"0": "ok", "0.001": "rate_limited"})
async def _(node: WholeNode) -> str:
    return await send_three(node)


@decides("limits.burst", {"3": "ok", "2": "rate_limited"}, limits__messages_per_second="0.001")
async def _(node: WholeNode) -> str:
    return await send_three(node)


async def send_three(node: WholeNode) -> str:
    """What becomes of the third message that somebody sends at once."""
    member = node.member()
    await node.chat.rooms.join("r", [member])
    return [await code_of(node.chat.rooms.join_and_send(member, "r", [member], "hello", None)) for _ in range(3)][-1]


@decides("limits.rooms-per-member", {"2": "ok", "1": "too_large"})
async def _(node: WholeNode) -> str:
    member = node.member()
    await node.chat.rooms.join("r", [member])
    return await code_of(node.chat.rooms.join("s", [member]))


@decides("limits.tokens-per-member", {"2": "ok", "1": "unauthorized"})
async def _(node: WholeNode) -> str:
    member = node.member()
    secret, _ = await node.chat.tokens.make(member, 60)
    await node.chat.tokens.make(member, 90)
    return await code_of(node.chat.tokens.check(secret, member))


@decides("limits.devices-per-member", {"2": 2, "1": 1})
async def _(node: WholeNode) -> int:
    """How many of two devices' places are left after a sweep."""
    member = node.member()
    await node.chat.rooms.join("r", [member])
    await node.store.move_cursors([Cursor("r", member, name, 1) for name in ("phone", "tablet")])
    await node.service._sweep()
    places = [(await node.store.memberships(member, name))[0] for name in ("phone", "tablet")]
    return sum(place.delivered is not None for place in places)


@decides("limits.device-days", {"90": 90, "7": 7})
async def _(node: WholeNode) -> int:
    """How many days the store is told."""
    swept: list[int] = []

    def sweep(now: int, idle: int, devices: int) -> Deferred[None]:
        swept.append(idle // service.DAY)
        return succeed(None)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(node.store, "sweep", sweep)
        await node.service._sweep()
    return swept[0]


@decides("limits.json-depth", {"32": False, "4": True})
async def _(node: WholeNode) -> bool:
    """Whether what is deep is refused for that, in all protocols, and where a connection was open before."""
    decode = [codec.decode for codec in codecs(node)]
    deep = b'{"type":"nothing","x":[[[[[[]]]]]]}'
    refused = {one(deep, False).error.reason.count("is nested deeper") for one in decode}
    refused.add(int(b"is nested deeper" in await node.say(deep)))
    assert len(refused) == 1
    return bool(refused.pop())


def codecs(node: WholeNode) -> list[Any]:
    """The codecs of the WebSocket listener."""
    factory: Any = node.service.listenings[1].factory._factory
    return list(factory.make_handler(None)._subprotocols.codecs.values())


@decides("limits.history-page", {"3": 3, "2": 2})
async def _(node: WholeNode) -> int:
    await node.chat.rooms.join("r", ["ann"])
    for _ in range(3):
        await node.chat.rooms.post("ann", "r", "hello")
    return len((await node.chat.rooms.history("r", None, None, 100))[0])


@decides("limits.signals-room", {"0": True, "1": False})
async def _(node: WholeNode) -> bool:
    """Whether one hears that another one types, in a room of two."""
    room, ann, bob = node.member(), node.member(), node.member()
    await node.chat.rooms.join(room, [ann, bob])
    one, other = await node.listen(ann), await node.listen(bob)
    await until(lambda: one.said("caught_up") and other.said("caught_up"))
    one.session.receive(commands.Typing(rid=room, ref=1))
    await until(lambda: one.said("ok"))
    return bool(other.said("typing"))
