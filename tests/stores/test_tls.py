"""TLS to MySQL and Redis: a server with a right certificate is used; any other is refused with a line that says why,
and is used as soon as its certificate is right. test_tls_bytes.py is about what it is sent before.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, eventAsText

from mercury.bus.redis import RedisBus
from mercury.errors import MercuryError
from mercury.node.build import engine_tls
from mercury.settings import engines
from mercury.settings.types import ConfigError
from mercury.stores.mysql.sql import rows
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.store import RedisStore
from mercury.stores.tls import EngineTls
from tests.contracts.append import AppendContract
from tests.contracts.tools import Make, entry_of, joined, log_of, logged, message, opened, put
from tests.support.certificates import Authority
from tests.support.free_ports import free_port
from tests.support.redis_servers import redis_or_skip
from tests.support.refused_start import refused as start_refused
from tests.support.tls_engines import HERE, WRONG, Mysql, Redis

pytestmark = pytest.mark.slow

PATIENCE = 30.0  # seconds for what should take a moment
NUMBER = count()  # of databases


@pytest.fixture(scope="module", params=[Mysql, Redis], ids=["mysql", "redis"])
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Either engine, which all tests below share; each leaves it with a right certificate."""
    engine = request.param(tmp_path_factory.mktemp("tls"))
    yield engine
    engine.engine.kill()


async def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        await deferLater(reactor, 0.02)


@pytest_twisted.ensureDeferred
async def test_a_wrong_certificate_is_refused_with_a_line_that_says_why(tls: Any) -> None:
    for what, words in WRONG.items():
        tls.become(what)
        with logged() as events, pytest.raises(MercuryError) as caught:
            await tls.store().open()
        assert caught.value.code == "unavailable"
        assert f"{HERE}:{tls.server.port} cannot be used" in caught.value.reason
        assert re.search(words.format(tls.name), caught.value.reason), (what, caught.value.reason)
        assert all(event["log_level"] == LogLevel.error and "log_failure" not in event for event in events)
    tls.become("right")
    async with opened(lambda _: tls.store()) as store:
        await put(store, joined("r", "a"))


def test_a_node_does_not_start_on_a_server_with_a_wrong_certificate(tls: Any, tmp_path: Path) -> None:
    tls.become("expired")
    line = start_refused(tmp_path, *tls.flags)
    tls.become("right")
    words = WRONG["expired"].format(tls.name)
    assert re.fullmatch(rf"mercury: .*{HERE}:{tls.server.port} cannot be used: {words}.*", line)


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_goes_wrong_makes_the_store_unavailable_until_it_is_right_again(tls: Any) -> None:
    """Each connection that is made anew has it checked; the log says it once, for all that is tried meanwhile."""
    async with opened(lambda _: tls.store()) as store:
        (answer,) = await put(store, joined("s", "a"))
        with logged() as events:
            tls.become("expired")
            tls.hang_up()
            for _ in range(3):
                with pytest.raises(MercuryError) as caught:
                    await put(store, message("s", "a", "no", "c"))
                assert caught.value.code == "unavailable"
                assert caught.value.retry_after
            words = re.compile(WRONG["expired"].format(tls.name))
            await until(lambda: any(words.search(eventAsText(event)) for event in events))
            tls.become("right")
            await comes_back(store)
        told = [eventAsText(event) for event in events if event["log_level"] == LogLevel.error]
        assert len({line for line in told if words.search(line)}) == len([line for line in told if words.search(line)])
        (answer,) = await put(store, message("s", "a", "yes", "c"))
        assert [entry.text for entry in await log_of(store, "s")] == ["", "yes"]
        assert entry_of(answer).seq == 2


async def comes_back(store: Any) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            await store.ping()
        except MercuryError:
            assert time.monotonic() < end, "the store does not come back"
            await deferLater(reactor, 0.05)
        else:
            return


@pytest_twisted.ensureDeferred
async def test_all_connections_of_a_store_are_encrypted(tls: Any) -> None:
    async with opened(lambda _: tls.store()) as store:
        if isinstance(store, RedisStore):
            await store.ping()
            clients = tls.engine.ask("CLIENT", "LIST", "TYPE", "normal").decode()
            assert re.findall(r" laddr=(\S+) .* cmd=(?!client)", clients) == [f"{HERE}:{tls.port}"]
        else:
            for pool in (store._appending, store._writer, store._reader):
                ((_, version),) = await pool.run(rows, "SHOW STATUS LIKE 'Ssl_version'")
                assert version in ("TLSv1.2", "TLSv1.3")


# The bus, and Sentinel


class Listener:
    """What a bus tells is of no matter here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@pytest_twisted.ensureDeferred
async def test_a_bus_on_a_server_with_a_wrong_certificate_is_down_until_it_is_right(tmp_path: Path) -> None:
    tls = Redis(tmp_path)
    tls.become("for another name")
    bus: Any = RedisBus(reactor, tls.server)
    with logged() as events:
        await bus.open(Listener())
        words = re.compile(f"Redis at {HERE}:{tls.port} cannot be used: {WRONG['for another name'].format('redis')}")
        told = [eventAsText(event) for event in events if event["log_level"] == LogLevel.error]
        assert len(told) == 2  # its two connections
        assert all(words.search(line) for line in told), told
        assert not bus.is_up
        tls.become("right")
        await until(lambda: bus.is_up)
    await bus.close()
    tls.engine.kill()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[Redis, tuple[str, int]]]:
    """A Redis server and a sentinel, which speak TLS and nothing else, with one certificate for both."""
    tls = Redis(tmp_path)
    port, config, files = free_port(), tmp_path / "sentinel.conf", tls.certificates
    config.write_text(
        f"port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients no\ntls-cert-file {files.cert}\n"
        f"tls-key-file {files.key}\ntls-ca-cert-file {files.ours.file}\nbind {HERE}\ndir {tmp_path}\n"
        f"logfile {tmp_path}/sentinel.log\nsentinel monitor chat {HERE} {tls.port} 1\n"
    )
    process = subprocess.Popen([redis_or_skip(), str(config), "--sentinel"], stdin=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((HERE, port), 1).close()
            break
        except OSError:
            assert time.monotonic() < end, (tmp_path / "sentinel.log").read_text()
            time.sleep(0.02)
    yield tls, (HERE, port)
    process.kill()
    process.wait()
    tls.engine.kill()


@pytest_twisted.ensureDeferred
async def test_sentinels_are_asked_by_tls_and_have_to_prove_themselves_too(
    sentinel: tuple[Redis, tuple[str, int]], tmp_path: Path
) -> None:
    tls, (host, port) = sentinel
    others = EngineTls("redis", str(Authority(tmp_path / "strange.pem").file))
    with pytest.raises(MercuryError, match=f"the sentinel at {host}:{port} .*is not signed by .*strange.pem"):
        await tls.store(sentinels=((host, port),), service="chat", tls=others).open()
    async with opened(lambda _: tls.store(sentinels=((host, port),), service="chat")) as store:
        await put(store, joined("r", "a"))
        tls.become("for another name")  # the server; the sentinel has read its own already
        tls.hang_up()
        with pytest.raises(MercuryError, match=rf"is not valid for {host} \(--redis.sentinels\)"):
            await until_refused(store)
        tls.become("right")
        await comes_back(store)


async def until_refused(store: Any) -> None:
    """Ask until a new connection was tried."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            await store.ping()
        except MercuryError as error:
            if "certificate" in error.reason:
                raise
        await deferLater(reactor, 0.02)


# Our own files


@pytest_twisted.ensureDeferred
async def test_a_server_that_asks_for_a_certificate_is_shown_ours(tls: Any, tmp_path: Path) -> None:
    cert, key = map(str, tls.certificates.ours.issue(tmp_path / "client", HERE))
    if tls.name == "redis":
        tls.engine.ask("CONFIG", "SET", "tls-auth-clients", "yes")
        asked, words = tls.store, "it requires a client certificate: set --redis.tls-cert and --redis.tls-key"
    else:
        tls.engine.query("CREATE USER shown REQUIRE X509")
        tls.engine.query("GRANT ALL ON mercury.* TO shown")
        asked, words = partial(tls.store, user="shown"), "denied"
    with pytest.raises(MercuryError, match=words):
        await asked().open()
    async with opened(lambda _: asked(tls=replace(tls.server.tls, cert=cert, key=key))) as store:
        await store.ping()
    if tls.name == "redis":
        tls.engine.ask("CONFIG", "SET", "tls-auth-clients", "no")


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_used_is_named_with_its_setting(tls: Any, tmp_path: Path) -> None:
    certificates, missing, empty = tls.certificates, str(tmp_path / "missing.pem"), tmp_path / "empty.pem"
    empty.write_text("")
    cert, key = str(certificates.cert), str(certificates.key)
    for changes, words in {
        (("ca", missing),): rf"--{tls.name}.tls-ca: {missing} cannot be read: No such file",
        (("ca", str(empty)),): rf"--{tls.name}.tls-ca: {empty} cannot be read: it is not unencrypted PEM",
        (("cert", missing), ("key", key)): rf"--{tls.name}.tls-cert: {missing} with {key} cannot be read: No such file",
        (
            ("cert", cert),
            ("key", cert),
        ): rf"--{tls.name}.tls-cert: {cert} with {cert} cannot be read: it is not unencrypted PEM",
    }.items():
        with pytest.raises(MercuryError, match=words):
            await tls.store(tls=replace(tls.server.tls, **dict(changes))).open()


def test_settings_that_contradict_each_other_are_named() -> None:
    for name, section in (("mysql", engines.Mysql), ("redis", engines.Redis)):
        with pytest.raises(ConfigError, match=f"{name}.tls-ca is set, but {name}.tls is not"):
            engine_tls(name, section(tls_ca="ca.pem"))
        with pytest.raises(ConfigError, match=f"{name}.tls-cert and {name}.tls-key belong together"):
            engine_tls(name, section(tls=True, tls_key="key.pem"))


# And all works


class TestByTls(AppendContract):
    """A part of what every store is held to, with TLS between."""

    @pytest.fixture
    def make(self, tls: Any) -> Make:
        def another(limit: int) -> Any:
            if tls.name == "redis":
                tls.engine.ask("FLUSHALL")
                return RedisStore(reactor, tls.server, limit)
            return MysqlStore(replace(tls.server, database=f"contract_{next(NUMBER)}"), rooms_per_member=limit)

        return another

    @pytest.fixture
    def make_nodes(self, make: Make) -> list[Any]:
        return [make(0)]


@pytest_twisted.ensureDeferred
async def test_large_texts_go_both_ways(tls: Any) -> None:
    text = "long " * 400_000
    async with opened(lambda _: tls.store()) as store:
        await put(store, joined("large", "a"), message("large", "a", text))
        assert (await log_of(store, "large"))[-1].text == text
