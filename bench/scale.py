"""Whether answers stay as quick as they were when rooms, members and messages grow: `make bench ARGS="scale"`.

A store of each kind is filled in three steps (scale_fill.py). After each, a fresh node serves it, and what clients ask
for most is timed (scale_client.py): for a member of many rooms, in a room of many members, in a room of many messages.
The first has to take longer with more rooms, since it is told about each; nothing else should.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final
from unittest import SkipTest

from bench import scale_report
from bench.processes import BINARIES, ROOT, BenchError
from bench.runs import pipes, read_figures
from bench.scale_client import MEASURES, measure, subjects
from bench.scale_fill import CROWD, SIZES, one_of, secret
from bench.scale_report import Results
from bench.servers import Server

sys.path.append(str(ROOT / "tests"))  # where the engines are that tests start as well
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

#: Less than the data of the largest size takes, so that not all is in memory.
MARIADB: Final = ("--innodb-buffer-pool-size=256M",)
SETTLE_SECONDS: Final = 1.5  # a second after a member's last connection went, others are told


@contextmanager
def mariadb(folder: Path) -> Iterator[list[str]]:
    """A server that syncs each commit; Mercury's flags for it."""
    engine = MariaDb(folder, *MARIADB)
    engine.start()
    try:
        yield ["--mysql.host=127.0.0.1", f"--mysql.port={engine.port}"]
    finally:
        engine.kill()


@contextmanager
def sqlite(folder: Path) -> Iterator[list[str]]:
    """A file, which Mercury syncs at each commit."""
    yield ["--storage.type=sqlite", f"--sqlite.path={folder / 'mercury.sqlite'}"]


@contextmanager
def redis(folder: Path) -> Iterator[list[str]]:
    """A server with appendfsync always."""
    engine = RedisEngine(folder, free_port(), durable=True)
    try:
        yield ["--redis.host=127.0.0.1", f"--redis.port={engine.port}"]
    finally:
        engine.kill()


STORES: Final[dict[str, Callable[[Path], AbstractContextManager[list[str]]]]] = {
    "MariaDB": mariadb,
    "SQLite": sqlite,
    "Redis": redis,
}


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def run(module: str, folder: Path, *arguments: str) -> str:
    """Run a module of the benchmark as a program, as the servers run: with no settings but those given."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MERCURY_")} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{module} {' '.join(arguments)} failed; see above")
    return done.stdout


def serve(store: str, folder: Path, flags: Sequence[str], step: int, results: Results) -> None:
    """Measure everything on a fresh node."""
    with Server(store, folder, flags=flags, core=None) as server:
        for name, subject in subjects(SIZES[step], step).items():
            with ExitStack() as stack:
                figures = results[store, name, step] = {}
                if name == "members":
                    stack.enter_context(connected(server, folder, step))
                figures |= measure(server, subject)
            if name == "members":
                time.sleep(SETTLE_SECONDS)
                figures |= fan_out(server, folder, step)
            medians = ", ".join(f"{key} {figures[key]:.2f}" for key in MEASURES)
            say(f"  {getattr(SIZES[step], name):,} {name}: {medians}")


def load(server: Server, folder: Path, step: int, *flags: str) -> list[str]:
    """bench/load with all members of the crowd, one connection each."""
    members = folder / "members"
    lines = [f"{secret(mid)} {mid} {CROWD} {server.ws_port}\n" for mid in map(one_of, range(SIZES[step].members))]
    members.write_text("".join(lines))
    return [str(BINARIES / "load"), f"--members={members}", f"--server-pid={server.pid}", "--handshakes=256", *flags]


@contextmanager
def connected(server: Server, folder: Path, step: int) -> Iterator[None]:
    """All members of the crowd are connected meanwhile."""
    command = load(server, folder, step, "--scenario=idle")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        standard_in, standard_out = pipes(process)
        read_figures(standard_out.readline())
        yield
        standard_in.close()
    if process.returncode:
        raise BenchError(f"not all of the crowd stayed connected (status {process.returncode})\n{server.tail()}")


def fan_out(server: Server, folder: Path, step: int) -> Iterator[tuple[str, float]]:
    """How long a message takes to all members of the crowd: one is on the way, always."""
    command = load(server, folder, step, "--scenario=fanout", "--protocol=v2", "--in-flight=1")
    command += ["--seconds=2", "--warm-up=1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BenchError(f"the fan-out failed its checks: {done.stdout.decode().strip()}\n{server.tail()}")
    yield "say", 1000 / read_figures(done.stdout)["messages_per_s"]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='make bench ARGS="scale ..."', description=__doc__)
    parser.add_argument("--store", choices=STORES, help="only on this store")
    parser.add_argument("--sizes", type=int, choices=range(1, len(SIZES) + 1), default=len(SIZES), help="how many")
    parser.add_argument("--write", action="store_true", help="put tables, plot and plans into docs/")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write if asked to."""
    chosen = options(arguments)
    if chosen.write and (chosen.store or chosen.sizes < len(SIZES)):
        raise BenchError("--write puts the whole into docs/performance.md: leave out --store and --sizes")
    if not (BINARIES / "load").exists():
        raise BenchError(f"{BINARIES / 'load'} is missing: start this with make bench, which needs gcc")
    begun = time.monotonic()
    results: Results = {}
    plans: dict[str, str] = {}
    scratch = ROOT / "var"
    scratch.mkdir(exist_ok=True)
    for store in [chosen.store] if chosen.store else STORES:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as name, ExitStack() as stack:
            folder = Path(name)
            try:
                flags = stack.enter_context(STORES[store](folder))
            except SkipTest as missing:
                raise BenchError(str(missing)) from None
            for step in range(chosen.sizes):
                say(f"{store}: filling to {SIZES[step]} ({time.monotonic() - begun:.0f} s)")
                run("bench.scale_fill", folder, str(step - 1), str(step), *flags)
                serve(store, folder, flags, step, results)
            plans[store] = run("bench.scale_plans", folder, str(chosen.sizes - 1), *flags)
    command = f'make bench ARGS="{" ".join(["scale", *arguments])}"'
    text = scale_report.full(results, chosen.sizes, command)
    print(f"{text}\n{time.monotonic() - begun:.0f} s. Every answer was whole and what was asked for.")
    if chosen.write:
        scale_report.write(text, results, plans)
