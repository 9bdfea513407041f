"""What holds for all tests: which part of them runs, in which order, and that in CI nothing is skipped.

A test that is skipped promises nothing, and nobody looks at a green run; so where CI is set in the environment, a run
with a skipped (or expectedly failing) test fails and lists them. pytest-twisted runs the reactor (see pyproject.toml).

`--part` chooses among the tests by two marks, which pyproject.toml explains: `alone` and `slow`. tests/__main__.py uses
it. With `-n auto` pytest-xdist runs the tests in several processes, which then take one file after the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_twisted
import txaio
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

    from mercury.stores.mysql.server import MysqlServer
    from tests.support.mariadb_servers import MariaDb
    from tests.support.websocket_port import OpenPort

txaio.use_twisted()  # Autobahn's serializers take their clock when they are imported, whoever does that first

# Where the asserts of many tests stand: they too shall say what was compared.
pytest.register_assert_rewrite("tests.contracts", "tests.promises", "tests.support")

DATABASES = count()

#: What takes longest comes first, so that no process is still busy with it when the others are done.
LONGEST: Final = (
    "promises/test_faults.py",
    "promises/test_fortunes.py",
    "promises/test_model.py",
    "gotalk/test_browser.py",
    "stores/test_at_rest.py",
    "promises/test_kill.py",
    "promises/test_checker.py",
    "websocket/test_conformance.py",
    "wamp/test_real_clients.py",
    "gotalk/test_sqlmap.py",
    "bus/test_across_nodes.py",
    "bus/test_mysql.py",
    "gotalk/test_calls.py",
    "wamp/test_broken.py",
    "cli/test_backup.py",
    "cli/test_install.py",
    "stores/test_contracts.py",
    "stores/test_contracts_sealed.py",
)
#: Of these, the ones whose tests go to one process all the same: what they share takes long to start.
TOGETHER: Final = ("gotalk/test_browser.py", "websocket/test_conformance.py", "cli/test_install.py")
MOST_PROCESSES: Final = 16  # each may have a MariaDB of its own
PROGRAMS: Final = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}  # Python's audit events

settings.register_profile(
    "mercury", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)  # a noisy machine is slow at times, and that is no fault of the code
settings.register_profile("long", settings.get_profile("mercury"), max_examples=2000)  # --hypothesis-profile=long
settings.load_profile("mercury")


# Which tests, and in which order


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        choices=("all", "parallel", "alone", "quick"),
        default="all",
        help="only the tests that can share the machine, those that have to be alone, or the quick ones",
    )


def chosen(item: pytest.Item, part: str) -> bool:
    """Whether a test belongs to a part."""
    alone, slow = (item.get_closest_marker(name) is not None for name in ("alone", "slow"))
    return {"all": True, "parallel": not alone, "alone": alone, "quick": not alone and not slow}[part]


def length(nodeid: str) -> int:
    """Where in LONGEST a test's file stands, or behind all of it."""
    file = nodeid.partition("::")[0]
    return next((at for at, name in enumerate(LONGEST) if file.endswith(name)), len(LONGEST))


def is_apart(nodeid: str) -> bool:
    """Whether a test may go to another process than the others of its file."""
    return length(nodeid) < len(LONGEST) and not nodeid.partition("::")[0].endswith(TOGETHER)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("part")
    config.hook.pytest_deselected(items=[item for item in items if not chosen(item, part)])
    items[:] = sorted((item for item in items if chosen(item, part)), key=lambda item: length(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core, since tests wait about half of their time."""
    return min(2 * len(os.sched_getaffinity(0)), MOST_PROCESSES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc] # xdist has no types
        """A file's tests go to one process, since they may share what takes long to start; but for the longest."""

        def _split_scope(self, nodeid: str) -> str:
            return nodeid if is_apart(nodeid) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return ByFile(config, log)


class NoPrograms:
    """Fails each test that starts a program, which takes too long for what is run after each change."""

    def __init__(self) -> None:
        self._testing = False
        sys.addaudithook(self._refuse)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        self._testing = True
        try:
            return (yield)
        finally:
            self._testing = False

    def _refuse(self, event: str, args: tuple[object, ...]) -> None:
        if self._testing and event in PROGRAMS:
            raise RuntimeError(f"this test starts a program ({event}), so it has to be marked slow (pyproject.toml)")


# In CI nothing is skipped


class NothingSkipped:
    """Collects what was skipped, while collecting or running, and fails the session for it."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            self.skipped.append(f"{report.nodeid}: {why or 'no reason given'}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section("skipped, and CI allows no skipping", red=True)
            for line in self.skipped:
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.pluginmanager.register(NothingSkipped())
    if config.getoption("part") == "quick":
        config.pluginmanager.register(NoPrograms())


# What tests share


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives ports to servers in their own processes. A server in the test's own process listens on port 0 instead."""
    from tests.support.free_ports import free_port as give

    return give


@pytest_twisted.async_yield_fixture
async def open_port() -> AsyncIterator[OpenPort]:
    """Opens a WebSocket port in this process with these settings: open_port(ws={...}, frame_bytes=...)."""
    from tests.support.websocket_port import WebSocketPort

    ports: list[WebSocketPort] = []

    async def open(ws: dict[str, Any] | None = None, **limits: Any) -> WebSocketPort:
        ports.append(WebSocketPort(ws or {}, limits))
        await ports[-1].open()
        return ports[-1]

    yield open
    for port in ports:
        await port.shut()


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A MariaDB server that all tests share; whoever wants to kill one starts one of their own.

    It gives out ids as MySQL 8 does, to whoever asks, which is the harder case.
    """
    from tests.support.mariadb_servers import MariaDb

    server = MariaDb(tmp_path_factory.mktemp("mariadb"), "--innodb-autoinc-lock-mode=2")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mysql(mariadb: MariaDb) -> MysqlServer:
    """A database that is not there yet."""
    return mariadb.database(f"special_{next(DATABASES)}")


@pytest.fixture
def alter(mariadb: MariaDb) -> Iterator[Callable[[str, object], None]]:
    """Changes a global variable of the server for new connections, until the test is over."""
    before: dict[str, object] = {}

    def change(name: str, value: object) -> None:
        before.setdefault(name, mariadb.query(f"SELECT @@GLOBAL.{name}")[0][0])
        mariadb.query(f"SET GLOBAL {name} = %s", value)

    yield change
    for name, value in before.items():
        mariadb.query(f"SET GLOBAL {name} = %s", value)
