"""The short road through an opening handshake gives what Autobahn alone gives, whatever comes and however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport

from mercury.errors import MercuryError
from mercury.settings.limits import Limits
from mercury.settings.schema import Ws
from mercury.websocket.factory import WebSocketFactory
from mercury.websocket.fast import handshake
from mercury.websocket.fast.request import parse_plain_request
from tests.support.turn_clock import Turns

FIELDS = ("peer", "headers", "host", "path", "params", "version", "origin", "protocols", "extensions")


class Porter:
    """Writes down what it is asked; lets in who comes to /ws, and takes the first protocol offered."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def admit(self, request: ConnectionRequest) -> str | None:
        self.seen.append([getattr(request, field) for field in FIELDS])
        if not request.path.startswith("/ws"):
            raise MercuryError("not_found", f"nothing at {request.path}")
        return request.protocols[0] if request.protocols else None

    def opened(self, deflate: bool) -> Porter:
        self.seen.append(("opened", deflate))
        return self

    def on_frame(self, payload: bytes, binary: bool) -> None:
        self.seen.append((payload, binary))

    def pong(self, payload: bytes) -> None:
        self.seen.append(("pong", payload))

    def slow(self) -> None:
        self.seen.append("slow")

    def drained(self) -> None:
        self.seen.append("drained")

    def closed(self, code: int) -> None:
        self.seen.append("closed")


def made(origins: str = "*", *, compression: bool = True) -> Any:
    """A connection that has just been made."""
    ws = Ws(origins=origins, compression=compression)
    limits = Limits(frame_bytes=300, handshake_seconds=0)
    seen: list[Any] = []
    factory: Any = WebSocketFactory(lambda _: Porter(seen), reactor=Turns(), limits=limits, ws=ws)
    connection = factory.buildProtocol(None)
    connection.seen = seen
    connection.makeConnection(StringTransport(lenient=True))
    return connection


def run(chunks: list[bytes], origins: str) -> tuple[Any, ...]:
    """What a connection makes of these: what its handler saw, what it wrote, and how it stands."""
    connection = made(origins)
    transport = connection.transport
    for chunk in chunks:
        if not transport.disconnecting:
            connection.dataReceived(chunk)
    result = (
        connection.seen, transport.value(), transport.disconnecting, connection.state, connection.data,
        connection._ended, connection.inside_message, connection.current_frame is None,
    )  # fmt: skip
    if not transport.disconnecting:
        connection.abort()
    return result


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
NEEDED = (
    "Host: localhost:6010", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)  # fmt: skip

#: What each header may say: right, nearly so, or wrong.
VALUES = {
    "Host": ("localhost", "localhost:", "localhost:x", "localhost:99999", "h:+1", "[::1]:60", "[::1]", "a:b:1"),
    "Upgrade": ("WebSocket", "h2c, websocket", "websocket,", "h2c", "web socket", "websockets"),
    "Connection": ("upgrade", "keep-alive, Upgrade", "keep-alive", "Upgrade,,", "up grade", "xupgrade"),
    "Sec-WebSocket-Version": ("8", "+13", "1 3", "0", "013", "x", "12", "13, 13"),
    "Sec-WebSocket-Key": (KEY[:-1], f"{KEY}=", "dGhlIHNhbXBsZSBub25j*Q==", f"{KEY[:-2]}=A", "dGhlIHNhbXBsZSBub25jZ Q="),
    "Origin": (
        "https://a.b", "http://a.b:80", "http://A.b", "https://a.b:99999", "null", "file://", "https://", "a.b",
        "http://a b", "https://a.b:443", "https://a.b/", "https://u@a.b", "https://[::1]", "https://a.b:",
    ),
    "Sec-WebSocket-Protocol": ("a", "a, b", "a,a", "a,, b", ",", "mercury.v2.json", "a,b, a ", "a b"),
    "Sec-WebSocket-Extensions": (
        "permessage-deflate", "permessage-deflate; client_max_window_bits", "x; y=1", ";", ",", 'x; y="1"',
        "permessage-deflate; server_max_window_bits=99", "permessage-deflate, permessage-deflate",
    ),
    "X-Forwarded-For": ("10.0.0.1",),
    "Content-Length": ("5",),
}  # fmt: skip
ANY = ("", " ", "\t13", "\xfc", "\x85", "\x0b13", "13\r", "a\nUpgrade: b", "a: b")
names = st.sampled_from(list(VALUES))
values = names.flatmap(lambda name: st.tuples(st.just(name), st.sampled_from([*VALUES[name] * 3, *ANY])))
spelled = st.sampled_from([str] * 6 + [str.upper, str.lower, " {}".format, "{} ".format, "\xc4{}".format, "{}_".format])
separators = st.sampled_from([": "] * 8 + [":", " : ", ":  ", ":\t", ""])
PAIRS = ("token=abc", "member=m", "device=", "=x", "a=b=c", "a", "", "a=%61", "%61=b", "a=+", "a=%ff", ";", "a;b=1")
TARGETS = (
    "/ws", "/", "//ws", "///ws", "/ws;p=1", "/ws;", "/w s", "ws", "*", "http://h/ws", "/ws?", "/ws#f", "/ws#",
    "/ws?a=1#f", "/w%73", "/ws/\xfc", "/[ws", "http:/ws", "/:ws", "/ws\\", "/ws/?a=1?b=2", "",
    *(f"/ws?{pair}&a=c" for pair in PAIRS),
)  # fmt: skip
queries = st.one_of(
    st.lists(st.sampled_from(PAIRS)).map("&".join),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12),
)  # fmt: skip
targets = st.one_of(
    st.sampled_from(TARGETS),
    queries.map(lambda query: f"/ws?{query}"),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(lambda text: f"/{text}"),
)  # fmt: skip
versions = st.sampled_from(["HTTP/1.0", "HTTP/1.1 ", "http/1.1", "HTTP/1.1 x", "", "HTTP/2", "HTTP/1.11"])
methods = st.sampled_from(["POST", "get", " GET", "GET ", "GETS", ""])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A plain request of which a few things are changed, with something behind it."""
    first, headers, end = ["GET", "/ws/connect?token=abc&member=m", "HTTP/1.1"], list(NEEDED), "\r\n"
    for change in draw(st.lists(st.sampled_from(["value", "more", "target", "less", "line", "end"]), max_size=3)):
        if change in ("value", "more"):
            name, value = draw(values)
            if change == "value":
                headers = [header for header in headers if not header.startswith(name)]
            headers.insert(draw(st.integers(0, len(headers))), f"{draw(spelled)(name)}{draw(separators)}{value}")
        elif change == "target":
            first[1] = draw(targets)
        elif change == "less":
            del headers[draw(st.integers(0, len(headers) - 1))]
        elif change == "line":
            first[draw(st.sampled_from([0, 2]))] = draw(st.one_of(versions, methods))
        else:
            end = draw(st.sampled_from(["\n", "\r", "\r\n ", "\x1c"]))
    odd = draw(st.integers(0, len(headers)))
    text = "".join(line + (end if n == odd else "\r\n") for n, line in enumerate([" ".join(first), *headers]))
    rest = draw(st.sampled_from([b"", b"", b"\x81\x80abcd", b"\x8a\x80abcd", b"\x81", b"\r\n\r\n", b"GET / HTTP/1.1"]))
    return text.encode("latin-1") + draw(st.sampled_from([b"\r\n"] * 9 + [b"", b"\n"])) + rest


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Bytes, cut at these places."""
    cuts = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def request(*more: str, target: str = "/ws/connect?token=abc&member=m", rest: bytes = b"") -> bytes:
    """A plain request with more headers."""
    return "\r\n".join([f"GET {target} HTTP/1.1", *NEEDED, *more, "", ""]).encode() + rest


def alike(chunks: list[bytes], origins: str) -> None:
    """The short road, Autobahn's reading of the request, and that with its answer too come to the same."""
    short = run(chunks, origins)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handshake, "parse_plain_request", lambda _: None)
        assert short == run(chunks, origins)
        patch.setattr(handshake.FastHandshake, "succeedHandshake", WebSocketServerProtocol.succeedHandshake)
        assert short == run(chunks, origins)


@settings(max_examples=750)
@given(data=requests(), places=st.lists(st.integers(0, 300), max_size=4), origins=st.sampled_from(["*", "https://a.b"]))
@example(data=request(target="/nowhere"), places=[], origins="*")
@example(data=request(rest=b"\x81\x85aaaa\x09\x04\x0d\x0d\x0e"), places=[7, 90], origins="*")
def test_all_roads_lead_to_the_same(data: bytes, places: list[int], origins: str) -> None:
    alike(cut(data, places), origins)


@pytest.mark.parametrize("name", VALUES)
def test_so_they_do_with_each_header(name: str) -> None:
    """In place of a right one, and beside it."""
    for value in (*VALUES[name], *ANY):
        others = [header for header in NEEDED if not header.startswith(name)]
        for headers in ([*others, f"{name}: {value}"], [*NEEDED, f"{name}: {value}"]):
            data = "\r\n".join(["GET /ws HTTP/1.1", *headers, "", ""]).encode("latin-1")
            for origins in ("*", "https://a.b"):
                alike([data], origins)


@pytest.mark.parametrize("target", TARGETS)
def test_so_they_do_with_each_target(target: str) -> None:
    alike([f"GET {target} HTTP/1.1\r\n".encode("latin-1") + request().split(b"\r\n", 1)[1]], "*")


BROWSER = (
    "Pragma: no-cache", "Cache-Control: no-cache", "User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko",
    "Origin: https://chat.example.org", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: de,en;q=0.9",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Cookie: a=b; c=d",
)  # fmt: skip


@pytest.mark.parametrize("data", [request(), request("Sec-WebSocket-Protocol: mercury.v2.json"), request(*BROWSER)])
def test_what_programs_and_browsers_send_goes_the_short_road(data: bytes) -> None:
    assert parse_plain_request(data) is not None


def test_a_connection_has_all_that_autobahn_gives_one() -> None:
    """What Autobahn sets up for each connection stands in the class here, where it is the same for all."""
    plain: Any = WebSocketServerProtocol()
    ours = made()
    plain.factory = ours.factory
    plain.makeConnection(StringTransport())
    plain.openHandshakeTimeoutCall.cancel()
    options = {*WebSocketServerProtocol.CONFIG_ATTRS, "openHandshakeTimeoutCall", "transport"}
    replaced = {"is_open", "is_closed", "_valid_events", "_results", "_transport_details", "trafficStats"}
    replaced |= {"send_queue", "utf8validator"}
    given_by_autobahn = vars(plain).keys() - options
    assert [name for name in given_by_autobahn if not hasattr(ours, name)] == []
    assert [name for name in given_by_autobahn - replaced if getattr(ours, name) != getattr(plain, name)] == []
    assert replaced <= given_by_autobahn


def test_what_changes_is_each_connections_own() -> None:
    one, other = made(), made()
    assert one.utf8validator is not other.utf8validator
    assert one.utf8validator is one.utf8validator
    with pytest.raises(AttributeError):  # nothing of one can get to another by what they share
        one.send_queue.append(b"")


def test_an_open_connection_keeps_nothing_of_its_handshake() -> None:
    for data in (request(), request(*BROWSER)):
        connection = made()
        connection.dataReceived(data)
        assert connection.state == connection.STATE_OPEN
        assert not vars(connection).keys() & {*handshake.HANDSHAKE}
        connection.abort()
