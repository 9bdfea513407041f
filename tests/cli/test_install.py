"""Mercury installs from its folder into an empty environment, works there from anywhere, and goes without a trace.

This is done for real: a new virtual environment, `pip install .` with the pinned versions, the commands by their
names, and a server that answers. It takes some 20 seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from mercury import __version__
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PLUGIN = "twisted/plugins/mercury_plugin.py"
PATIENCE = 60.0  # seconds until a server that does not come up is given up


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout and return its standard output. If it fails, so does the test."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MERCURY_"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment in which nothing was done but to install Mercury."""
    folder = tmp_path_factory.mktemp("install")
    source, venv = folder / "source", folder / "venv"
    source.mkdir()
    for name in ("mercury", "twisted"):  # a copy, since building leaves folders behind
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "venv", venv, cwd=folder)
    pins = ROOT / "requirements/run.txt"
    run(venv / "bin/pip", "install", "--quiet", "--constraint", pins, source, cwd=folder)
    shutil.rmtree(source)
    return venv


def test_it_brings_its_own_files_and_one_plugin(venv: Path, tmp_path: Path) -> None:
    listed = run(venv / "bin/pip", "show", "--files", "mercury-chat", cwd=tmp_path).partition("Files:\n")[2].split()
    foreign = {name for name in listed if not name.startswith(("mercury/", "mercury_chat-", "../../../bin/mercury"))}
    assert {name for name in foreign if "__pycache__" not in name} == {PLUGIN}
    files = (path for path in (ROOT / "mercury").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    missing = {str(path.relative_to(ROOT)) for path in files} - set(listed)
    assert not missing, "setup.py does not name all packages, and what is in them beside Python"


def test_the_commands_work_by_name(venv: Path, tmp_path: Path) -> None:
    assert run(venv / "bin/mercury", "--version", cwd=tmp_path) == f"Mercury {__version__}\n"
    told = run(venv / "bin/mercury", "--help", cwd=tmp_path)
    assert told.startswith("Usage: mercury [options]\n")
    assert "--server.ws.port" in told
    assert run(venv / "bin/python", "-m", "mercury.cli.server", "--help", cwd=tmp_path) == told
    assert f"Mercury {__version__}" in run(venv / "bin/twistd", "mercury", "--version", cwd=tmp_path)
    assert "--server.ws.port" in run(venv / "bin/twistd", "mercury", "--help", cwd=tmp_path)
    assert "--member" in run(venv / "bin/mercury-client", "--help", cwd=tmp_path)
    assert "rewrite" in run(venv / "bin/mercury-keys", "--help", cwd=tmp_path)


def test_the_server_serves(venv: Path, tmp_path: Path, free_port: Callable[[], int]) -> None:
    api, ws = free_port(), free_port()
    log = tmp_path / "log"
    flags = [f"--server.api.port={api}", f"--server.ws.port={ws}", "--sqlite.path=data/mercury.sqlite"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(venv / "bin/mercury"), *flags],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        assert healthy(f"http://127.0.0.1:{api}/healthz", server), log.read_text()
        assert (tmp_path / "data/mercury.sqlite").exists()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0, log.read_text()
    finally:
        server.kill()
        server.wait()
    assert "Traceback" not in log.read_text()


def test_the_debian_package_has_the_same_version() -> None:
    first = (ROOT / "debian/changelog").read_text("utf-8").partition("\n")[0]
    assert first.startswith(f"mercury ({__version__}) ")


def healthy(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Whether the server answers with 200 before it ends or the patience does."""
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.1)
    return False


def test_uninstalling_leaves_twisted_whole(venv: Path, tmp_path: Path) -> None:
    copy = tmp_path / "venv"
    shutil.copytree(venv, copy, symlinks=True)
    python = copy / "bin/python"
    (site,) = copy.glob("lib/python*/site-packages")
    before = {path.name for path in (site / "twisted/plugins").glob("*.py")}
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "mercury-chat", cwd=tmp_path)
    assert {path.name for path in (site / "twisted/plugins").glob("*.py")} == before - {"mercury_plugin.py"}
    assert not (site / "mercury").exists()
    commands = run(python, copy / "bin/twistd", "--help", cwd=tmp_path)
    assert " web " in commands
    assert "mercury" not in commands
