"""Brings what the rivals are made of from Debian, npm and PyPI: the pinned versions, below build/, once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.processes import ROOT, BenchError

HERE: Final = Path(__file__).resolve().parent
BUILD: Final = ROOT / "build" / "rivals"


def attempt(command: Sequence[str], what: str, cwd: Path = ROOT) -> None:
    """Run a command that says itself what goes wrong."""
    try:
        status = subprocess.run(command, cwd=cwd, stdout=sys.stderr, check=False).returncode
    except FileNotFoundError:
        status = -1
    if status:
        raise BenchError(f"{what} cannot be installed; name the servers to do without it, with --store")


def debian(*names: str) -> None:
    """Packages of the system: installed as root, else it is said what to type."""
    attempt([str(ROOT / "tools" / "packages"), *names], " and ".join(names))


def virtualenv(place: Path, *requirements: str) -> None:
    """A virtualenv of its own with these requirements, pinned, in pip's words."""
    done = place / f"installed-{hashlib.sha256(' '.join(requirements).encode()).hexdigest()[:12]}"
    if done.exists():
        return
    print(f"Installing {', '.join(requirements)} into {place.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    attempt([sys.executable, "-m", "venv", str(place)], "a virtualenv")
    pip = [str(place / "bin" / "pip"), "--disable-pip-version-check", "-qq", "install", *requirements]
    attempt(pip, ", ".join(requirements))
    done.touch()


def requirements() -> list[str]:
    """Those of the programs in Python."""
    lines = (HERE / "python" / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def python() -> Path:
    """The interpreter that the programs in Python run with."""
    virtualenv(BUILD / "python", *requirements())
    return BUILD / "python" / "bin" / "python"


def node() -> dict[str, str]:
    """The environment in which the programs for Node find their packages."""
    debian(*(name for name, program in (("nodejs", "node"), ("npm", "npm")) if not shutil.which(program)))
    place = BUILD / "node"
    modules = place / "node_modules"
    lock = (HERE / "node" / "package-lock.json").read_bytes()
    if not (modules.exists() and (place / "installed").exists() and (place / "installed").read_bytes() == lock):
        place.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / "node" / name, place)
        print(f"Installing ws and socket.io into {place.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
        attempt(["npm", "ci", "--loglevel=error"], "ws and socket.io", place)
        (place / "installed").write_bytes(lock)
    return os.environ | {"NODE_PATH": str(modules), "NODE_ENV": "production"}
