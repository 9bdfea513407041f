"""Crossbar, the WAMP router by Autobahn's makers, to be measured beside Mercury.

It is installed from PyPI into a virtualenv of its own below build/, and started with the least that lets everybody in
and everything through, on 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.processes import ROOT, SERVER_CORE, START_SECONDS, BenchError, Process, free_ports

VERSION: Final = "26.10.1"
PLACE: Final = ROOT / "build" / "crossbar"
REALM: Final = "mercury"


def install() -> None:
    """Install it, unless that is done. Takes a minute or two."""
    done = PLACE / f"installed-{VERSION}"
    if done.exists():
        return
    print(f"Installing crossbar {VERSION} into {PLACE.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    pip = [str(PLACE / "bin" / "pip"), "--disable-pip-version-check", "-qq", "install", f"crossbar=={VERSION}"]
    for command in ([sys.executable, "-m", "venv", str(PLACE)], pip):
        if subprocess.run(command, check=False).returncode:
            raise BenchError(f"crossbar {VERSION} cannot be installed: {' '.join(command)}")
    done.touch()


def settings(port: int) -> dict[str, object]:
    """Its configuration: one realm, nobody is asked who they are, JSON over WebSocket."""
    everything = {"uri": "", "match": "prefix", "allow": {"publish": True, "subscribe": True}, "cache": True}
    realm = {"name": REALM, "roles": [{"name": "anonymous", "permissions": [everything]}]}
    transport = {
        "type": "websocket",
        "endpoint": {"type": "tcp", "port": port, "interface": "127.0.0.1", "backlog": 1024},
        "serializers": ["json"],
        "auth": {"anonymous": {"type": "static", "role": "anonymous"}},
    }
    return {"version": 2, "workers": [{"type": "router", "realms": [realm], "transports": [transport]}]}


class Crossbar(Process):
    """A Crossbar node. `pid`: its router's, which does all the work once it has started."""

    def __init__(self, folder: Path) -> None:
        install()
        (self.ws_port,) = free_ports(1)
        (folder / "config.json").write_text(json.dumps(settings(self.ws_port)))
        command = [str(PLACE / "bin" / "crossbar"), "start", f"--cbdir={folder}", "--loglevel=warn"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.launch("crossbar", folder, command, environment, SERVER_CORE)

    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        end = time.monotonic() + START_SECONDS
        while not (routers := self._routers()):
            if time.monotonic() > end:
                raise BenchError(f"crossbar started no router:\n{self.tail()}")
            time.sleep(0.05)
        (self.pid,) = routers

    def _routers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def speaks(self, protocol: str) -> str:
        return "router"
