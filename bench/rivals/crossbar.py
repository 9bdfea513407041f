"""Crossbar, the WAMP router by Autobahn's makers, to be measured beside Mercury.

It is installed from PyPI into a virtualenv of its own below build/, and started with the least that lets everybody in
and everything through, on 127.0.0.1.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from bench.processes import ROOT, SERVER_CORE, Process, free_ports
from bench.rivals.install import virtualenv

VERSION: Final = "26.10.1"
PLACE: Final = ROOT / "build" / "crossbar"
REALM: Final = "mercury"


def install() -> None:
    """Install it, unless that is done. Takes a minute or two."""
    virtualenv(PLACE, f"crossbar=={VERSION}")


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
        self.wait_for_child()

    def speaks(self, protocol: str) -> str:
        return "router"
