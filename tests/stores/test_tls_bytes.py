"""What a MySQL or Redis server is sent that has not proved itself by TLS: nothing, and nothing in clear.

It is looked at on made-up servers, which keep what they hear.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mercury.errors import MercuryError
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.tls import EngineTls
from tests.support.certificates import Authority
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine
from tests.support.tls_engines import HERE, WRONG, Certificates

PATIENCE = 30.0  # seconds for what should take a moment
CANARY = "secret-4c1d"


class MadeUp:
    """Takes one connection as an engine would, speaks TLS with what certificate it is given (or not at all), and keeps
    what it hears: `clear` before the handshake, `secret` after it."""

    def __init__(self, name: str, context: ssl.SSLContext | None) -> None:
        self.clear = self.secret = b""
        self._greeting = GREETING if name == "mysql" else b""
        self._context = context
        self._listening = socket.create_server((HERE, 0))
        self.port = self._listening.getsockname()[1]
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        peer, _ = self._listening.accept()
        peer.settimeout(PATIENCE)
        with self._listening, peer, suppress(OSError):
            if self._greeting:
                peer.sendall(self._greeting)
                self.clear = peer.recv(4)
                self.clear += peer.recv(self.clear[0])
            if self._context is None:
                self.clear += peer.recv(4096)
                return
            with self._context.wrap_socket(peer, server_side=True) as tls:
                self.secret = tls.recv(4096)

    def end(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


#: How a MariaDB server begins (the protocol's Initial Handshake Packet), that speaks TLS and asks for a password.
_GREETING = (
    b"\x0a10.11.0-MariaDB\0" + b"\x01\0\0\0" + b"saltsalt\0" + b"\xff\xff" + b"\x2d" + b"\x02\0" + b"\xff\xc1" + b"\x15"
    + bytes(10) + b"saltsaltsalt\0" + b"mysql_native_password\0"
)  # fmt: skip
GREETING = bytes([len(_GREETING), 0, 0, 0]) + _GREETING


def stores(name: str, port: int, authority: Authority) -> Any:
    """A store with a password on such a server."""
    if name == "redis":
        return RedisStore(
            reactor, RedisServer(HERE, port, CANARY, tls=EngineTls("redis", str(authority.file)), connect_seconds=1.0)
        )
    tls = EngineTls("mysql", str(authority.file))
    return MysqlStore(
        MysqlServer(host=HERE, port=port, user=CANARY, password=CANARY, database=CANARY, tls=tls, read_seconds=1.0)
    )


def served(files: tuple[Path, Path], *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if newest is not None:
        context.minimum_version, context.maximum_version = newest, newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(*files)
    return context


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name", ["mysql", "redis"])
async def test_nothing_is_sent_to_a_server_that_has_not_proved_itself(name: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    for what in ("right", *WRONG):
        certificates.become(what)
        server = MadeUp(name, served((certificates.cert, certificates.key)))
        with pytest.raises(MercuryError):
            await stores(name, server.port, certificates.ours).open()
        await deferToThread(server.end)
        assert bool(server.secret) == (what == "right"), what  # so what is sent would be seen here
        assert len(server.clear) == (36 if name == "mysql" else 0)  # the wish for TLS, which has no room for a name


@pytest_twisted.ensureDeferred
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # which is what is tried here
@pytest.mark.parametrize("name", ["mysql", "redis"])
async def test_nothing_is_sent_in_clear_or_by_an_old_tls(name: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    for newest in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, None):
        context = served((certificates.cert, certificates.key), newest=newest) if newest else None
        server = MadeUp(name, context)
        with pytest.raises(MercuryError) as caught:
            await stores(name, server.port, certificates.ours).open()
        await deferToThread(server.end)
        assert bool(server.secret) == (newest == ssl.TLSVersion.TLSv1_2)
        if not server.secret:
            assert f"but --{name}.tls requires one" in caught.value.reason, caught.value
        assert CANARY.encode() not in server.clear
        assert b"SELECT" not in server.clear


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_no_tls_is_refused(mariadb: MariaDb, tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours.pem")
    engine = RedisEngine(tmp_path / "redis", free_port())
    plain = {
        "--mysql.tls": MysqlStore(replace(mariadb.database("plain"), tls=EngineTls("mysql", str(ours.file)))),
        "--redis.tls": stores("redis", engine.port, ours),
    }
    for setting, store in plain.items():
        with pytest.raises(MercuryError, match=f"no TLS connection, but {setting} requires one"):
            await store.open()
    engine.kill()
