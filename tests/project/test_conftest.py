"""The rules of conftest.py hold: where CI is set, a skipped test fails the run and is named with its reason; each part
has its tests, the longest first; and what is quick starts no program.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # each runs pytest

RUNS = "def test_runs():\n    pass\n"
SKIPS = {
    "in_a_test": "def test_skips():\n    pytest.skip('reason 1')\n",
    "by_a_mark": "@pytest.mark.skip(reason='reason 2')\ndef test_skips():\n    pass\n",
    "while_collecting": "pytest.skip('reason 3', allow_module_level=True)\n",
    "expected_to_fail": "@pytest.mark.xfail(reason='reason 4')\ndef test_skips():\n    assert False\n",
}


PARTS = {
    "promises/test_kill.py": RUNS,
    "promises/test_faults.py": RUNS,
    "fast": RUNS,
    "cost": "@pytest.mark.alone\ndef test_memory():\n    pass\n",
    "program": "@pytest.mark.slow\ndef test_server():\n    pass\n",
}
STARTS = "import subprocess, sys\n\ndef test_server():\n    subprocess.call([sys.executable, '-c', ''])\n"

PARALLEL = ("-n", "2", "--dist", "loadfile")
ONE_PROCESS: tuple[str, ...] = ()


def run(folder: Path, bodies: dict[str, str], *arguments: str, ci: str = "") -> tuple[int, str]:
    """Run pytest on test files with these bodies beside a copy of conftest.py; the exit code and the output."""
    shutil.copy(ROOT / "tests/conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    alone\n    slow\n")
    for name, body in bodies.items():
        path = folder / (name if name.endswith(".py") else f"test_{name}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"import pytest\n\n{body}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, folder, *arguments],
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("how", [ONE_PROCESS, PARALLEL])
def test_skipped_tests_fail_the_run_in_ci_and_are_named(how: Sequence[str], tmp_path: Path) -> None:
    code, output = run(tmp_path, {"runs": RUNS, **SKIPS}, *how, ci="true")
    assert code == 1, output
    listed = output.split("CI allows no skipping")[1]
    for number, name in enumerate(SKIPS, 1):
        assert re.search(rf"test_{name}\.py.*: .*reason {number}", listed), output
    assert "test_runs" not in listed


@pytest.mark.parametrize(
    ("bodies", "how", "ci"), [({"runs": RUNS, **SKIPS}, ONE_PROCESS, ""), ({"runs": RUNS}, PARALLEL, "true")]
)
def test_otherwise_the_run_is_good(bodies: dict[str, str], how: Sequence[str], ci: str, tmp_path: Path) -> None:
    code, output = run(tmp_path, bodies, *how, ci=ci)
    assert code == 0, output
    assert "CI allows no skipping" not in output


@pytest.mark.parametrize(
    ("part", "tests"),
    [
        ("parallel", ["test_faults", "test_kill", "test_fast", "test_program"]),
        ("alone", ["test_cost"]),
        ("quick", ["test_faults", "test_kill", "test_fast"]),
    ],
)
def test_a_part_has_its_tests_and_what_takes_longest_comes_first(part: str, tests: list[str], tmp_path: Path) -> None:
    code, output = run(tmp_path, PARTS, f"--part={part}", "--collect-only", "-q")
    assert code == 0, output
    assert re.findall(r"(\w+)\.py", output) == tests


@pytest.mark.parametrize("how", [ONE_PROCESS, PARALLEL])
def test_what_starts_a_program_is_not_quick(how: Sequence[str], tmp_path: Path) -> None:
    code, output = run(tmp_path, {"starts": STARTS}, "--part=quick", *how)
    assert code == 1, output
    assert "has to be marked slow" in output
