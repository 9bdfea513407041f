"""What holds for all tests: in CI nothing is skipped, and Hypothesis never judges by the clock.

A test that is skipped promises nothing, and nobody looks at a green run; so where CI is set in the environment, a run
with a skipped (or expectedly failing) test fails and lists them. pytest-twisted runs the reactor (see pyproject.toml).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

import pytest
import txaio
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from mercury.stores.mysql.server import MysqlServer
    from tests.support.mariadb_servers import MariaDb

txaio.use_twisted()  # Autobahn's serializers take their clock when they are imported, whoever does that first

# Where the asserts of many tests stand: they too shall say what was compared.
pytest.register_assert_rewrite(
    "contract_accounts", *(f"contract_store{part}" for part in ("", "_append", "_random", "_read", "_sealed", "_tools"))
)

DATABASES = count()

settings.register_profile(
    "mercury", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)  # a noisy machine is slow at times, and that is no fault of the code
settings.register_profile("long", settings.get_profile("mercury"), max_examples=2000)  # --hypothesis-profile=long
settings.load_profile("mercury")


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


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives ports to servers in their own processes. A server in the test's own process listens on port 0 instead."""
    from tests.support.free_ports import free_port as give

    return give


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
