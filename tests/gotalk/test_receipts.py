"""When an answer counts as received by a client that never says so: raw sockets, closed and reset in every way."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from mercury.gotalk import receipts
from tests.support.certificates import Authority
from tests.support.gotalk_node import GotalkNode, Person, contents, request
from tests.support.in_process_node import Wiretap, is_whole, reactor, until

TEXT = "x" * 3000


class Scene:
    """Ann has written to Bob, whose client does not ack."""

    def __init__(self, gotalk: GotalkNode, ann: Person, bob: Person) -> None:
        self.gotalk, self.ann, self.bob = gotalk, ann, bob
        self.port = gotalk.port

    def sync(self, version: str = "1.1", *headers: str) -> bytes:
        return request("/sync", version, headers, token=self.bob.token, id=self.bob.id)

    async def connect(self) -> Wiretap:
        return await self.gotalk.connect()

    async def answered(self, wiretap: Wiretap) -> None:
        """Until the connection has an answer."""
        await until(lambda: is_whole(wiretap.data))

    async def again(self) -> list[str]:
        """What is handed over when that is asked on another connection, to the same device."""
        wiretap = await self.connect()
        wiretap.write(self.sync())
        await self.answered(wiretap)
        wiretap.drop()
        data = wiretap.data.rpartition(b"\r\n\r\n")[2]
        return [] if data == b'"no message"' else contents(wiretap.data)

    async def is_moved(self) -> bool:
        """Whether what was written counts as received, when the server has had time to see it."""
        await deferLater(reactor, 0.1)
        return await self.again() == []


@pytest_twisted.async_yield_fixture
async def scene() -> AsyncIterator[Scene]:
    async with GotalkNode() as gotalk:
        ann, bob = await gotalk.person("ann"), await gotalk.person("bob")
        await gotalk.say(ann, bob, TEXT)
        logged: list[LogEvent] = []
        observer: Any = logged.append
        globalLogPublisher.addObserver(observer)
        yield Scene(gotalk, ann, bob)
        globalLogPublisher.removeObserver(observer)
        assert [eventAsText(event) for event in logged if event["log_level"].name not in ("debug", "info")] == []


def reset(sock: Any) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Client:
    """A client in threads, as old ones are: it sends, reads some bytes, and closes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self.socket.recv(count - len(data))):
            data += more
        return data

    def ask(self, data: bytes) -> int:
        """Send, and return how long the whole answer is. Of that nothing is read yet."""
        self.socket.sendall(data)
        while b"\r\n\r\n" not in (seen := self.socket.recv(65536, socket.MSG_PEEK)):
            pass
        head, _, _ = seen.partition(b"\r\n\r\n")
        length = next(int(line.split()[1]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
        return len(head) + 4 + length


def in_thread(work: Any, *args: Any) -> Deferred[Any]:
    return deferToThread(work, *args)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@ensureDeferred
async def test_who_reads_all_and_closes_has_received_it(scene: Scene, version: str) -> None:
    def work() -> None:
        client = Client(scene.gotalk.port)
        client.read(client.ask(scene.sync(version)))
        client.socket.close()

    assert await scene.again() == [TEXT]
    await in_thread(work)
    assert await scene.is_moved()


@pytest.mark.parametrize("headers", [("1.0",), ("1.1", "Connection: close")])
@ensureDeferred
async def test_who_reads_until_the_server_closes_has_received_it(scene: Scene, headers: tuple[str, ...]) -> None:
    def work() -> bytes:
        client = Client(scene.gotalk.port)
        client.socket.sendall(scene.sync(*headers))
        data = client.read(10**6)
        client.socket.close()
        return data

    assert contents(await in_thread(work)) == [TEXT]
    assert await scene.is_moved()


@pytest.mark.parametrize("left", [1, 2, 1500, 3100])
@pytest.mark.parametrize("how", ["close", "reset", "late close"])
@ensureDeferred
async def test_who_goes_away_before_all_is_read_gets_it_again(scene: Scene, left: int, how: str) -> None:
    """`late`: when the last byte was sent, too, and waits unread in the client's socket."""

    def work() -> None:
        client = Client(scene.gotalk.port)
        length = client.ask(scene.sync())
        client.read(length - left)
        if how.startswith("late"):
            while len(client.socket.recv(65536, socket.MSG_PEEK)) < left:
                pass
        if how == "reset":
            reset(client.socket)
        else:
            client.socket.close()

    await in_thread(work)
    assert not await scene.is_moved()


@ensureDeferred
async def test_who_reads_all_and_resets_the_connection_gets_it_again(scene: Scene) -> None:
    def work() -> None:
        client = Client(scene.gotalk.port)
        client.read(client.ask(scene.sync()))
        reset(client.socket)

    await in_thread(work)
    assert not await scene.is_moved()


@ensureDeferred
async def test_while_the_connection_stays_open_nothing_is_known(scene: Scene) -> None:
    wiretap = await scene.connect()
    wiretap.write(scene.sync())
    await scene.answered(wiretap)
    assert not await scene.is_moved()


@pytest.mark.parametrize("path", ["/sync", "/friendlist", "/nothing"])
@ensureDeferred
async def test_another_request_on_the_connection_proves_what_was_answered_before(scene: Scene, path: str) -> None:
    wiretap = await scene.connect()
    wiretap.write(scene.sync())
    await scene.answered(wiretap)
    wiretap.data = b""
    wiretap.write(request(path, token=scene.bob.token, id=scene.bob.id))
    await scene.answered(wiretap)
    if path == "/sync":
        assert wiretap.data.endswith(b'"no message"')
    wiretap.drop()
    assert await scene.is_moved()


@ensureDeferred
async def test_a_request_that_was_sent_before_the_answer_proves_nothing(scene: Scene) -> None:
    wiretap = await scene.connect()
    wiretap.write(scene.sync() + scene.sync())
    await until(
        lambda: wiretap.data.count(b"HTTP/1.1 200") == 2 and is_whole(b"HTTP" + wiretap.data.rpartition(b"HTTP")[2])
    )
    wiretap.drop()
    assert wiretap.data.count(TEXT.encode()) == 2
    assert not await scene.is_moved()
    wiretap = await scene.connect()
    wiretap.write(scene.sync() + scene.sync())
    await until(
        lambda: wiretap.data.count(b"HTTP/1.1 200") == 2 and is_whole(b"HTTP" + wiretap.data.rpartition(b"HTTP")[2])
    )
    wiretap.data = b""
    wiretap.write(scene.sync())  # by now both have arrived
    await scene.answered(wiretap)
    assert wiretap.data.endswith(b'"no message"')


@ensureDeferred
async def test_a_client_that_never_closes_its_last_connection_is_hung_up_on() -> None:
    async with GotalkNode(request_seconds=1.0) as gotalk:
        ann, bob = await gotalk.person("ann"), await gotalk.person("bob")
        await gotalk.say(ann, bob, TEXT)
        scene = Scene(gotalk, ann, bob)
        data = await in_thread(_read_and_stay, scene)
        assert contents(data) == [TEXT]
        assert not await scene.is_moved()


def _read_and_stay(scene: Scene) -> bytes:
    client = Client(scene.gotalk.port)
    client.socket.sendall(scene.sync("1.0"))
    data = client.read(10**6)
    try:
        while True:
            client.socket.sendall(b"x")
    except OSError:  # the connection is no more
        client.socket.close()
    return data


@ensureDeferred
async def test_who_acks_is_answered_without_delay_and_closing_proves_nothing(scene: Scene) -> None:
    def work() -> bytes:
        client = Client(scene.gotalk.port)
        data = client.read(client.ask(request("/sync", token=scene.bob.token, ack=0)))
        client.socket.close()
        return data

    assert contents(await in_thread(work)) == [TEXT]
    assert not await scene.is_moved()


@ensureDeferred
async def test_who_takes_all_there_is_and_breaks_off_at_once_gets_it_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a proxy does whose own client goes away halfway: what it read it closes upon properly."""

    def work() -> int:
        client = Client(scene.gotalk.port)
        length = client.ask(scene.sync())
        time.sleep(0.1)
        taken = len(client.socket.recv(10**6))
        client.socket.close()
        return length - taken

    with monkeypatch.context() as patch:
        patch.setattr(receipts, "HELD_BACK", 5.0)
        assert await in_thread(work) == 1
    assert not await scene.is_moved()


class Lazy:
    """A client that does not read, and an answer that is longer than what its side and the server's take meanwhile."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    async def begin(self) -> None:
        """Ask, and let the server write all of it."""
        for _ in range(100):
            await self.scene.gotalk.say(self.scene.ann, self.scene.bob, TEXT * 5)
        await in_thread(self.socket.connect, ("127.0.0.1", self.scene.gotalk.port))
        self.socket.setblocking(False)
        self.socket.send(self.scene.sync())
        await deferLater(reactor, 0.3)


@ensureDeferred
async def test_another_request_from_who_has_not_taken_all_yet_proves_nothing(scene: Scene) -> None:
    lazy = Lazy(scene)
    await lazy.begin()
    lazy.socket.send(scene.sync())
    await deferLater(reactor, 0.1)
    assert len(await scene.again()) == 101
    reset(lazy.socket)


@ensureDeferred
async def test_closing_before_all_was_taken_proves_nothing(scene: Scene) -> None:
    lazy = Lazy(scene)
    await lazy.begin()
    lazy.socket.shutdown(socket.SHUT_WR)
    await deferLater(reactor, 0.1)
    assert len(await scene.again()) == 101
    lazy.socket.close()


@pytest.mark.parametrize(("version", "moved"), [("1.1", False), ("1.0", True)])
@ensureDeferred
async def test_our_own_end_of_a_connection_may_be_on_its_way_but_not_a_byte_of_the_answer(
    scene: Scene, version: str, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "unsent_bytes", lambda raw: 1)

    def work() -> None:
        client = Client(scene.gotalk.port)
        client.read(client.ask(scene.sync(version)))
        if version == "1.0":
            client.read(1)
        client.socket.close()

    await in_thread(work)
    assert await scene.is_moved() == moved


@ensureDeferred
async def test_the_rest_of_a_request_that_was_begun_before_the_answer_proves_nothing(scene: Scene) -> None:
    wiretap = await scene.connect()
    data = scene.sync() + scene.sync()
    wiretap.write(data[:-10])
    await scene.answered(wiretap)
    wiretap.data = b""
    wiretap.write(data[-10:])
    await scene.answered(wiretap)
    assert contents(wiretap.data) == [TEXT]


# Over TLS

warns = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")  # as Twisted does


@pytest_twisted.async_yield_fixture
async def tls(tmp_path: Path) -> AsyncIterator[tuple[Scene, ssl.SSLContext]]:
    authority = Authority(tmp_path / "authority.pem")
    certificate, key = authority.issue(tmp_path / "server", "127.0.0.1")
    plain, safe = GotalkNode(), GotalkNode()
    safe.endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    async with plain:
        ann, bob = await plain.person("ann"), await plain.person("bob")
        await plain.say(ann, bob, TEXT)
        safe.store, safe.chat = plain.store, plain.chat
        async with safe:
            scene = Scene(plain, ann, bob)
            scene.port = safe.port
            yield scene, ssl.create_default_context(cafile=authority.file)


def speak(scene: Scene, context: ssl.SSLContext, requests: Sequence[bytes], goodbye: bool) -> list[bytes]:
    """Send requests by TLS, in the given pieces, each after all answers to those before it, and close."""
    raw = socket.create_connection(("127.0.0.1", scene.port), 20)
    answers: list[bytes] = []
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as peer:
        for piece in requests:
            peer.sendall(piece)
            for _ in range(piece.count(b"POST")):
                data = b""
                while not is_whole(data):
                    data += peer.recv(1)
                answers.append(data)
        if goodbye:
            with suppress(OSError):  # the other side does not wait for it
                peer.unwrap()
    return answers


@warns
@pytest.mark.parametrize("goodbye", [True, False])
@ensureDeferred
async def test_closing_with_tls_is_saying_goodbye(tls: tuple[Scene, ssl.SSLContext], goodbye: bool) -> None:
    scene, context = tls
    (answer,) = await in_thread(speak, scene, context, [scene.sync()], goodbye)
    assert contents(answer) == [TEXT]
    assert await scene.is_moved() == goodbye


@warns
@ensureDeferred
async def test_requests_on_one_tls_connection(tls: tuple[Scene, ssl.SSLContext]) -> None:
    scene, context = tls
    answers = await in_thread(speak, scene, context, [scene.sync() * 2, scene.sync()], False)
    assert [contents(answer) for answer in answers[:2]] == [[TEXT], [TEXT]]
    assert answers[2].endswith(b'"no message"')


@warns
@ensureDeferred
async def test_when_the_server_ends_a_tls_connection_nothing_is_known(tls: tuple[Scene, ssl.SSLContext]) -> None:
    scene, context = tls
    await in_thread(speak, scene, context, [scene.sync("1.0")], True)
    assert not await scene.is_moved()
