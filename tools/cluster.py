"""Starts etc/three-nodes/ on this machine: MariaDB, Redis, three nodes of Mercury and HAProxy. Ctrl-C stops them all.

They are Debian's programs with the files of etc/three-nodes/ as they are, on 127.0.0.1 only. Data, logs and process ids
are in var/cluster (CLUSTER_FOLDER names another folder). The ports are those in the files; the environment may set
others: haproxy.cfg's names (CHAT=127.0.0.1:7010), MERCURY_MYSQL_PORT, MERCURY_REDIS_PORT.

Whoever dies is started again a second later: kill what you like, and see that the chat goes on.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "etc/three-nodes"
FOLDER = Path(os.environ.get("CLUSTER_FOLDER", ROOT / "var/cluster")).resolve()
START_SECONDS = 60.0
NODES = (1, 2, 3)


class Program:
    """One of the programs. `is_ready` asks whether it serves."""

    def __init__(self, name: str, command: list[str], is_ready: Callable[[], bool]) -> None:
        self.name = name
        self.command = command
        self.is_ready = is_ready

    def start(self) -> None:
        """Start it, out of reach of this terminal's Ctrl-C; if this process is killed, it ends too."""
        with (FOLDER / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - a program of ours
                [program("setpriv"), "--pdeathsig=TERM", "--", *self.command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        being_written = FOLDER / f"{self.name}.pid.new"
        being_written.write_text(f"{self.process.pid}\n")
        being_written.rename(FOLDER / f"{self.name}.pid")  # whoever reads it finds a number, old or new

    def wait(self) -> None:
        """Until it serves. SystemExit with the end of its log if it does not."""
        until = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                log = (FOLDER / f"{self.name}.log").read_text("utf-8", "replace")
                sys.exit(f"{log[-2000:]}\n{self.name} did not start: see the end of its log above")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes too long."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (FOLDER / f"{self.name}.pid").unlink()


def program(name: str) -> str:
    """A program's path; Debian has some where only root looks."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return found or sys.exit(f"{name} is missing; on Debian: apt-get install mariadb-server-core redis-server haproxy")


def answers(port: int, question: bytes = b"", answer: bytes = b"") -> bool:
    """Whether something on this port says `answer`, or anything; a MariaDB does so of its own accord."""
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as peer:
            peer.sendall(question)
            said = peer.recv(100)
    except OSError:
        return False
    return bool(said) and answer in said


def mariadb(port: int) -> Program:
    """MariaDB, with its files made if they are missing."""
    data = [f"--datadir={FOLDER / 'mariadb'}", f"--user={getpass.getuser()}"]
    if not (FOLDER / "mariadb").exists():
        making = FOLDER / "mariadb.new"  # so that what is broken off is not taken for whole
        shutil.rmtree(making, ignore_errors=True)
        install = [program("mariadb-install-db"), "--no-defaults", f"--datadir={making}", data[1], "--skip-test-db"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
        making.rename(FOLDER / "mariadb")
    command = [
        program("mariadbd"), f"--defaults-file={FILES / 'mariadb.cnf'}", *data, f"--init-file={FILES / 'mariadb.sql'}",
        f"--port={port}", "--socket=socket", "--pid-file=pid",
    ]  # fmt: skip
    return Program("mariadb", command, lambda: answers(port))


def redis(port: int) -> Program:
    """Redis, as a bus that keeps nothing."""
    command = [program("redis-server"), str(FILES / "redis.conf"), f"--port {port}", f"--dir {FOLDER}"]
    return Program("redis", command, lambda: answers(port, b"PING\r\n"))


def node(number: int) -> Program:
    """A node of Mercury, which tells its readiness to whoever comes as HAProxy does."""
    ws, rest = port_of(f"NODE{number}_WS"), port_of(f"NODE{number}_REST")
    listen = [
        f"--server.{kind}.endpoint=haproxy:tcp:{port}:interface=127.0.0.1:backlog=1024"
        for kind, port in (("ws", ws), ("api", rest))
    ]
    twistd = [str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=", "mercury"]
    command = [*twistd, f"--config={FILES / 'mercury.toml'}", *listen]
    question = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\nGET /readyz HTTP/1.0\r\n\r\n"
    return Program(f"node{number}", command, lambda: answers(rest, question, b" 200 "))


def haproxy() -> Program:
    """HAProxy, in the foreground."""
    command = [program("haproxy"), "-db", "-f", str(FILES / "haproxy.cfg")]
    return Program("haproxy", command, lambda: answers(port_of("REST"), b"GET /readyz HTTP/1.0\r\n\r\n", b" 200 "))


def port_of(name: str) -> int:
    """The port in one of haproxy.cfg's addresses."""
    return int(os.environ[name].rpartition(":")[2])


def programs() -> list[Program]:
    """All, in the order in which they are started. What haproxy.cfg presets is in the environment from now on."""
    from mercury.settings.sources import load

    os.environ.setdefault("ADMIN", "haproxy.socket")  # in FOLDER, where all run: a longer path might be too long
    preset = re.findall(r"^ *presetenv +(\S+) +(\S+)", (FILES / "haproxy.cfg").read_text(), re.MULTILINE)
    for name, value in preset:
        os.environ.setdefault(name, value)
    config, _ = load({"config.file": str(FILES / "mercury.toml")}, os.environ)
    ports = [config.mysql.port, config.redis.port, *(port_of(name) for name, value in preset if ":" in value)]
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                sys.exit(f"port {port} is in use; tools/cluster.py says how to set another one")
    return [mariadb(config.mysql.port), redis(config.redis.port), *map(node, NODES), haproxy()]


def told(every: list[Program]) -> str:
    """What to do now."""
    ports = port_of("REST"), port_of("CHAT")
    other = "" if ports == (6009, 6010) else ' ARGS="--api.port={} --ws.port={}"'.format(*ports)
    return (
        f"\nThree nodes of Mercury behind HAProxy are ready. Press Ctrl-C to stop them.\n\n"
        f"  REST        http://{os.environ['REST']}\n  WebSocket   ws://{os.environ['CHAT']}/ws/connect\n"
        f"  Logs        {FOLDER}\n\nChat in two other terminals:\n\n"
        f"  make client MEMBER=1{other}\n  make client MEMBER=2{other}\n\n"
        f"or kill one of {', '.join(one.name for one in every)}; it is restarted:\n\n"
        f"  kill -9 $(cat {FOLDER / 'node1.pid'})\n"
    )


def main() -> None:
    """Start all, start again whoever dies, and stop all on SIGINT or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.chdir(FOLDER)
    os.environ["PYTHONPATH"] = str(ROOT)
    started: list[Program] = []
    try:
        every = programs()
        for one in every:
            one.start()
            started.append(one)
            one.wait()
        print(told(every), flush=True)
        while True:
            time.sleep(1)
            for one in every:
                if one.process.poll() is not None:
                    print(f"{one.name} has ended ({one.process.returncode}) and is restarted", flush=True)
                    one.start()
    finally:
        for one in reversed(started):  # the engines last: nodes empty their journals into them
            one.stop()


if __name__ == "__main__":
    main()
