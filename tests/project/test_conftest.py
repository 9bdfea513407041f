"""The rule of conftest.py holds: where CI is set, a skipped test fails the run and is named with its reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

RUNS = "def test_runs():\n    pass\n"
SKIPS = {
    "in_a_test": "def test_skips():\n    pytest.skip('reason 1')\n",
    "by_a_mark": "@pytest.mark.skip(reason='reason 2')\ndef test_skips():\n    pass\n",
    "while_collecting": "pytest.skip('reason 3', allow_module_level=True)\n",
    "expected_to_fail": "@pytest.mark.xfail(reason='reason 4')\ndef test_skips():\n    assert False\n",
}


def run(folder: Path, bodies: dict[str, str], ci: str) -> tuple[int, str]:
    """Run pytest on test files with these bodies beside a copy of conftest.py; the exit code and the output."""
    shutil.copy(ROOT / "tests/conftest.py", folder)
    for name, body in bodies.items():
        (folder / f"test_{name}.py").write_text(f"import pytest\n\n{body}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_skipped_tests_fail_the_run_in_ci_and_are_named(tmp_path: Path) -> None:
    code, output = run(tmp_path, {"runs": RUNS, **SKIPS}, ci="true")
    assert code == 1, output
    listed = output.split("CI allows no skipping")[1]
    for number, name in enumerate(SKIPS, 1):
        assert re.search(rf"test_{name}\.py.*: .*reason {number}", listed), output
    assert "test_runs" not in listed


@pytest.mark.parametrize(("bodies", "ci"), [({"runs": RUNS, **SKIPS}, ""), ({"runs": RUNS}, "true")])
def test_otherwise_the_run_is_good(bodies: dict[str, str], ci: str, tmp_path: Path) -> None:
    code, output = run(tmp_path, bodies, ci)
    assert code == 0, output
    assert "CI allows no skipping" not in output
