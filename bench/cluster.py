"""Nodes on real engines: how soon a message is in a client's hands on another node, and how many a second one node
commits. `make bench ARGS="cluster"`.

MariaDB and Redis are private, on free ports, with their files below var/, and sync each commit to disk. What is counted
is counted at its source: CPU time by the kernel, statements by MariaDB, where each node is another user.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from unittest import SkipTest

from bench import cluster_report
from bench.processes import LOAD_CORE, ROOT, SERVER_CORE, BenchError, Process, cpu_seconds, free_ports, pin
from bench.runs import Figures, load_command, pipes, read_figures
from bench.scenarios import Scenario
from bench.servers import Floor, Server

sys.path.append(str(ROOT / "tests"))  # where the engines are that tests start as well
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

Engines = Literal["mariadb", "mariadb+redis", "redis", "memory", "floor"]

#: As on a server of one's own: memory for what is in use, and a log that is long enough for checkpoints to be rare.
MARIADB: Final = ("--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G", "--performance-schema=ON")
WARM_UP: Final = 2.0  # seconds

#: The nodes' connections that never commit, and how many SELECTs each has made. The SELECTs of the others belong to
#: writing: an append locks the rooms and looks for their members, storing proved deliveries locks the places.
READS: Final = """
SELECT s.THREAD_ID, s.COUNT_STAR
  FROM performance_schema.events_statements_summary_by_thread_by_event_name AS s
  JOIN performance_schema.threads AS t USING (THREAD_ID)
  WHERE s.EVENT_NAME = 'statement/sql/select' AND t.PROCESSLIST_USER LIKE 'node%' AND NOT EXISTS (
    SELECT 1 FROM performance_schema.events_statements_summary_by_thread_by_event_name AS c
      WHERE c.THREAD_ID = s.THREAD_ID AND c.EVENT_NAME = 'statement/sql/commit' AND c.COUNT_STAR > 0)
"""


@dataclass(frozen=True)
class Case:
    """One row of a table. `rate`: messages a second in all; 0: as many as come through, and the first node then has a
    core of its own, as load and engines together have the other one."""

    name: str
    title: str
    engines: Engines
    load: Scenario
    nodes: int = 1
    rate: int = 0
    text_bytes: int = 60

    @property
    def saturates(self) -> bool:
        return not self.rate

    @property
    def is_reference(self) -> bool:
        """It is there to be compared with, and run once."""
        return self.engines in ("memory", "floor")


def relaying(engines: Engines, title: str) -> Case:
    """1,000 messages a second over 100 rooms, all sent on the first of three nodes to members on the last."""
    return Case(f"relay-{engines}", title, engines, Scenario("relay", "", "relay", 200, ()), 3, rate=1000)


def crossing(engines: Engines, title: str, nodes: int = 3) -> Case:
    """The same, but sent on all nodes, each to members on the next one."""
    return Case(f"cross-{engines}", title, engines, Scenario("cross", "", "pairs", 200, ()), nodes, rate=1000)


def committing(engines: Engines, title: str) -> Case:
    """100 bytes of text into 1,000 rooms, four messages of each on the way."""
    return Case(
        f"commit-{engines}", title, engines, Scenario("commit", "", "alone", 1000, (), in_flight=4), text_bytes=100
    )


CASES: Final = (
    relaying("mariadb+redis", "MariaDB and Redis, sent on one node"),
    crossing("mariadb+redis", "MariaDB and Redis, sent on all nodes"),
    relaying("redis", "Redis alone, sent on one node"),
    crossing("redis", "Redis alone, sent on all nodes"),
    crossing("floor", "floor in C, one server", nodes=1),
    committing("mariadb", "MariaDB"),
    committing("mariadb+redis", "MariaDB, with Redis as the bus"),
    committing("memory", "memory"),
    committing("floor", "floor in C"),
)


class Cluster:
    """The engines and nodes of a case, fresh, in `folder`; `stack` ends them. `profile` is the first node's."""

    def __init__(self, case: Case, folder: Path, stack: ExitStack, profile: str) -> None:
        self.case = case
        self.mariadb: MariaDb | None = None
        self.pids: dict[str, int] = {}
        flags: list[str] = []
        if case.engines.startswith("mariadb"):
            (folder / "mariadb").mkdir()
            self.mariadb = MariaDb(folder / "mariadb", *MARIADB)
            stack.callback(self.mariadb.kill)
            self.mariadb.start()
            self.pids["mariadb_cpu"] = self.mariadb.pid
            flags += ["--mysql.host=127.0.0.1", f"--mysql.port={self.mariadb.port}"]
        if case.engines.endswith("redis"):
            redis = RedisEngine(folder / "redis", free_ports(1)[0], durable=case.engines == "redis")
            stack.callback(redis.kill)
            self.pids["redis_cpu"] = redis.pid
            flags += ["--redis.host=127.0.0.1", f"--redis.port={redis.port}"]
        self.nodes = [stack.enter_context(self.node(n, folder, profile, flags)) for n in range(case.nodes)]
        self.pids |= {f"node{number}_cpu": node.pid for number, node in enumerate(self.nodes)}

    def node(self, number: int, folder: Path, profile: str, flags: Sequence[str]) -> Process:
        """One more node, for MariaDB a user of its own."""
        name = f"node{number}"
        (folder / name).mkdir()
        if self.mariadb:
            self.mariadb.query(f"CREATE USER {name}@'127.0.0.1'")
            self.mariadb.query(f"GRANT ALL ON mercury.* TO {name}@'127.0.0.1'")
            flags = [*flags, f"--mysql.user={name}"]
        core = SERVER_CORE if self.case.saturates else None
        if self.case.engines == "floor":
            return Floor(folder / name, core)
        return Server(self.case.engines, folder / name, "" if number else profile, flags, core)

    def port_of(self, member: int) -> int:
        """Where a member connects; the two members of a room do so on different nodes."""
        if self.case.load.kind == "relay":
            return self.nodes[-(member % 2)].ws_port
        return self.nodes[(member // 2 + member % 2) % len(self.nodes)].ws_port


class Counters:
    """What is counted outside of the load generator. Two looks, and the difference is what happened between them."""

    def __init__(self, cluster: Cluster) -> None:
        self.pids = cluster.pids
        self.cursor: Any = cluster.mariadb and cluster.mariadb.connect().cursor()
        self.selects: dict[int, float] = {}  # by connection, at the last look
        self.reads = 0.0

    def look(self) -> Figures:
        """All counters."""
        node = self.pids["node0_cpu"]
        figures = {name: cpu_seconds(Path(f"/proc/{pid}/stat")) for name, pid in self.pids.items()}
        figures["reactor_cpu"] = cpu_seconds(Path(f"/proc/{node}/task/{node}/stat"))
        if self.cursor:
            self.cursor.execute("SHOW GLOBAL STATUS LIKE 'Com_commit'")
            figures["commits_per_s"] = float(self.cursor.fetchone()[1])
            self.cursor.execute(READS)
            selects = {thread: float(count) for thread, count in self.cursor.fetchall()}
            self.reads += sum(count - self.selects.get(thread, 0) for thread, count in selects.items())
            self.selects = selects
            figures["reads_per_s"] = self.reads
        return figures


@contextmanager
def started(case: Case, profile: str) -> Iterator[tuple[Cluster, Path]]:
    """The case's processes, and the file of its members for bench/load."""
    scratch = ROOT / "var"
    scratch.mkdir(exist_ok=True)
    pin(LOAD_CORE if case.saturates else None)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as name, ExitStack() as stack:
        folder = Path(name)
        try:
            cluster = Cluster(case, folder, stack, profile)
        except SkipTest as missing:
            raise BenchError(str(missing)) from None
        cluster.nodes[0].make_members(case.load, folder / "members", cluster.port_of)
        yield cluster, folder / "members"


def measure(case: Case, seconds: float, profile: str = "") -> Figures:
    """Run a case once. Raises BenchError if a single message went wrong."""
    with started(case, profile) as (cluster, members):
        counters = Counters(cluster)
        command = [*load_command(case.load, cluster.nodes[0], members), f"--text-bytes={case.text_bytes}"]
        command += [f"--seconds={seconds}", f"--warm-up={WARM_UP}", *([f"--rate={case.rate}"] if case.rate else [])]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        _, out = pipes(load)
        with load:
            begin = counters.look() if out.readline() == b"begin\n" else {}
            end = counters.look() if out.readline() == b"end\n" else {}
            report = out.read()
        if load.returncode:
            tails = "\n".join(node.tail() for node in cluster.nodes)
            raise BenchError(
                f"{case.name} failed its checks: {report.decode().strip()}\nThe nodes' last words:\n{tails}"
            )
    figures = read_figures(report) | {name: (end[name] - begin[name]) / seconds for name in end}
    measured = sum(figures[name] for name in (*cluster.pids, "load_cpu"))
    figures["others_cpu"] = max(0.0, figures["server_cpu"] + figures["load_cpu"] + figures["others_cpu"] - measured)
    return figures


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='make bench ARGS="cluster ..."', description=__doc__)
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--seconds", type=float, default=5, help="measured seconds of a run (5)")
    parser.add_argument(
        "--server-profile", default="", metavar="FILE", help="write the first node's cProfile figures there"
    )
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/performance.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write if asked to."""
    chosen = options(arguments)
    names = chosen.only.split(",") if chosen.only else [case.name for case in CASES]
    if unknown := set(names) - {case.name for case in CASES}:
        raise BenchError(f"--only: there is no {', '.join(sorted(unknown))}")
    if chosen.write and chosen.only:
        raise BenchError("--write puts the whole into docs/performance.md: leave out --only")
    if os.getloadavg()[0] > 0.5:
        print(f"Other programs keep this machine busy (load {os.getloadavg()[0]:.1f}): figures suffer", file=sys.stderr)
    begun = time.monotonic()
    runs: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(1, chosen.rounds + 1):
        for case in CASES:
            if case.name in names and (number == 1 or not case.is_reference):
                figures = measure(case, chosen.seconds, chosen.server_profile)
                runs[case.name].append(figures)
                print(
                    f"{number}/{chosen.rounds} {case.name}: {cluster_report.brief(figures)}",
                    file=sys.stderr,
                    flush=True,
                )
    text = cluster_report.full({case.name: case.title for case in CASES}, runs, " ".join(["cluster", *arguments]))
    print(f"{text}\n{time.monotonic() - begun:.0f} s. Every message came exactly once, in order and unharmed.")
    if chosen.write:
        cluster_report.write(text, {case.name: case.title for case in CASES}, runs)
