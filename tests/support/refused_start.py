"""A server that declines to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

LOCAL = ("--server.ws.address=127.0.0.1", "--server.ws.port=0", "--server.api.port=0")

MERCURY = (sys.executable, "-m", "mercury.cli.server")


def refused(tmp_path: Path, *flags: str, **environ: str) -> str:
    """The one line on standard error with which the server declines to start."""
    done = subprocess.run(
        [*MERCURY, *LOCAL, *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]
