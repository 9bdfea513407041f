"""Runs the tests: python -m tests [--quick] [what pytest takes]

First come those that can share the machine, in two processes for each of its cores; then, one after the other in one
process, those that judge time or memory. `--quick` are those that neither start a program nor take long.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

PARALLEL = ("-n", "auto", "--dist", "loadfile")


def run(part: str, *arguments: str) -> int:
    """Run a part of the tests (tests/conftest.py): pytest's exit code."""
    return subprocess.call([sys.executable, "-m", "pytest", f"--part={part}", *arguments])


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 if no part has failed, and there was anything to run."""
    began = time.monotonic()
    if "--quick" in arguments:
        code = run("quick", *PARALLEL, *(word for word in arguments if word != "--quick"))
    else:
        code = run("parallel", *PARALLEL, *arguments)
        if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            alone = run("alone", *arguments)
            nothing = pytest.ExitCode.NO_TESTS_COLLECTED
            code = alone if code == nothing else code or (0 if alone == nothing else alone)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"All of it took {time.monotonic() - began:.0f} s, and {cpu:.0f} s of CPU; {'failed' if code else 'passed'}.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
