"""Runs the suite that holds every store to its interface over each of them."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

pytest.register_assert_rewrite(*(f"contract_store{part}" for part in ("", "_append", "_random", "_read", "_tools")))

from contract_store import StoreContract  # noqa: E402
from contract_store_tools import Make  # noqa: E402

from mercury.backends.memory import MemoryStore  # noqa: E402
from mercury.backends.sqlite import SqliteStore  # noqa: E402


class TestMemory(StoreContract):
    @pytest.fixture
    def make(self) -> Make:
        return MemoryStore


class TestSqlite(StoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        number = count()
        return lambda limit: SqliteStore(str(tmp_path / f"{next(number)}.db"), limit)
