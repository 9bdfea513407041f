"""MariaDB and Redis servers that speak TLS, with certificates that tests change while they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor

from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.tls import EngineTls
from tests.support.certificates import Authority, self_signed
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

HERE = "127.0.0.1"

#: What a server may do wrong, and what has to be said of it beside the name of the engine. {0}: mysql or redis.
WRONG = {
    "expired": r"its certificate, which --{0}\.tls has checked, has expired",
    "not yet valid": r"its certificate, which --{0}\.tls has checked, is not valid yet",
    "by another authority": r"its certificate is not signed by the authorities in \S+ours\.pem: set --{0}\.tls-ca",
    "by itself": r"its certificate is not signed by the authorities in \S+ours\.pem: set --{0}\.tls-ca",
    "for another name": r"its certificate is not valid for 127\.0\.0\.1 \(--{0}\.host\)",
    "with a common name only": r"its certificate is not valid for 127\.0\.0\.1 \(--{0}\.host\)",
}


class Certificates:
    """The files that a server reads its certificate and key from. `ours` is whom Mercury is to trust."""

    def __init__(self, folder: Path) -> None:
        self.ours, self._others = Authority(folder / "ours.pem"), Authority(folder / "others.pem")
        self._path = folder / "server"
        self.cert, self.key = self.ours.issue(self._path, HERE)

    def become(self, what: str) -> None:
        """Put another certificate into the files: one of WRONG, or a right one."""
        ours, path = self.ours, self._path
        {
            "right": lambda: ours.issue(path, HERE),
            "expired": lambda: ours.issue(path, HERE, days=-2),
            "not yet valid": lambda: ours.issue(path, HERE, days=2),
            "by another authority": lambda: self._others.issue(path, HERE),
            "by itself": lambda: self_signed(path, HERE),
            "for another name": lambda: ours.issue(path, "127.0.0.9"),
            "with a common name only": lambda: ours.issue(path, HERE, common_name_only=True),
        }[what]()


class Mysql:
    """A MariaDB server with TLS."""

    name = "mysql"

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        self.engine = MariaDb(
            folder, f"--ssl-cert={self.certificates.cert}", f"--ssl-key={self.certificates.key}",
            f"--ssl-ca={self.certificates.ours.file}",
        )  # fmt: skip
        self.engine.start()
        self.server = replace(self.engine.database("mercury"), tls=EngineTls("mysql", str(self.certificates.ours.file)))
        self.flags = (
            f"--mysql.host={HERE}", f"--mysql.port={self.engine.port}", "--mysql.tls",
            f"--mysql.tls-ca={self.certificates.ours.file}",
        )  # fmt: skip

    def store(self, **changes: Any) -> MysqlStore:
        return MysqlStore(replace(self.server, **changes), 4)

    def become(self, what: str) -> None:
        self.certificates.become(what)
        self.engine.query("FLUSH SSL")

    def hang_up(self) -> None:
        """Close the connections that there are."""
        for (number,) in self.engine.query("SELECT id FROM information_schema.processlist WHERE db = 'mercury'"):
            self.engine.query(f"KILL {number}")


class Redis:
    """A Redis server with TLS, and a port without that the test alone knows."""

    name = "redis"

    def __init__(self, folder: Path, *options: str) -> None:
        self.certificates = Certificates(folder)
        self.port = free_port()
        files = ("--tls-cert-file", str(self.certificates.cert), "--tls-key-file", str(self.certificates.key))
        self.engine = RedisEngine(
            folder / "redis", free_port(), durable=True,
            options=("--tls-port", str(self.port), "--tls-auth-clients", "no", "--tls-ca-cert-file",
                     str(self.certificates.ours.file), *files, *options),
        )  # fmt: skip
        self.server = RedisServer(port=self.port, tls=EngineTls("redis", str(self.certificates.ours.file)))
        self.flags = (
            f"--redis.host={HERE}", f"--redis.port={self.port}", "--redis.tls",
            f"--redis.tls-ca={self.certificates.ours.file}",
        )  # fmt: skip

    def store(self, **changes: Any) -> RedisStore:
        return RedisStore(reactor, replace(self.server, **changes))

    def become(self, what: str) -> None:
        self.certificates.become(what)
        files = ("tls-cert-file", str(self.certificates.cert), "tls-key-file", str(self.certificates.key))
        assert self.engine.ask("CONFIG", "SET", *files) == b"+OK\r\n"

    def hang_up(self) -> None:
        for kind in ("normal", "pubsub"):
            self.engine.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
