"""The rivals as processes: each a small chat room made of one library, or a server that is one by its settings.

A room numbers its messages, if it can, and sends each as JSON to everyone in it, its sender too. None of them asks for
a token or keeps a message; nchan has the last ones in memory.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from subprocess import run
from typing import Final, Literal

from bench.processes import ROOT, SERVER_CORE, Process, free_ports
from bench.rivals import install
from bench.rivals.crossbar import VERSION, Crossbar
from bench.rivals.crossbar import install as install_crossbar

HERE: Final = install.HERE
NGINX: Final = "/usr/sbin/nginx"


@dataclass(frozen=True)
class Rival:
    """How it is started and spoken to. `program`: a file beside this one; `parts`: the packages it is made of."""

    made_with: Literal["node", "python", "mercury", "nginx", "crossbar"]
    program: str = ""
    dialect: str = "seed"
    parts: tuple[str, ...] = ()


RIVALS: Final[Mapping[str, Rival]] = {
    "nchan": Rival("nginx", dialect="nchan"),
    "ws": Rival("node", "node/ws_room.js", parts=("ws",)),
    "socketio": Rival("node", "node/socketio_room.js", "socketio", parts=("socket.io",)),
    "autobahn": Rival("mercury", "autobahn_room.py"),
    "websockets": Rival("python", "python/websockets_room.py", parts=("websockets", "uvloop")),
    "python-socketio": Rival("python", "python/socketio_room.py", "socketio", ("python-socketio", "uvicorn")),
    "crossbar": Rival("crossbar", dialect="router"),
}


def prepare(name: str) -> None:
    """Install what a rival needs, unless that is done."""
    match RIVALS[name].made_with:
        case "nginx":
            install.debian("nginx", "libnginx-mod-nchan")
        case "node":
            install.node()
        case "python":
            install.python()
        case "crossbar":
            install_crossbar()


def versions(name: str) -> str:
    """What it is made of."""
    rival = RIVALS[name]
    match rival.made_with:
        case "nginx":
            query = ["dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "libnginx-mod-nchan"]
            return f"nchan {said(query).partition('+')[0]} on nginx {said([NGINX, '-v']).rpartition('/')[2]}"
        case "crossbar":
            return f"Crossbar {VERSION}"
        case "node":
            pins = json.loads((HERE / "node" / "package.json").read_text())["dependencies"]
            made_of = ", ".join(f"{part} {pins[part]}" for part in rival.parts)
            return f"{made_of} on Node {said(['node', '--version']).removeprefix('v')}"
        case "python":
            pins = dict(line.split("==") for line in install.requirements())
            return " on ".join(f"{part} {pins[part]}" for part in rival.parts)
        case "mercury":
            return f"Autobahn {version('autobahn')}"


def said(command: Sequence[str]) -> str:
    """What a command says of a version, or a question mark."""
    try:
        done = run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "?"
    return (done.stdout or done.stderr).strip() or "?"


class Program(Process):
    """A program that is told its port, and does all in one process."""

    def __init__(self, name: str, folder: Path, options: Sequence[str] = ()) -> None:
        self.rival = RIVALS[name]
        (self.ws_port,) = free_ports(1)
        program, environment = str(HERE / self.rival.program), dict(os.environ)
        match self.rival.made_with:
            case "node":
                environment, command = install.node(), ["node", program]
            case "python":
                environment.pop("PYTHONPATH", None)
                command = [str(install.python()), program]
            case _:
                environment["PYTHONPATH"] = str(ROOT)
                command = [sys.executable, program]
        self.launch(name, folder, [*command, *options, str(self.ws_port)], environment, SERVER_CORE)

    def speaks(self, protocol: str) -> str:
        return "echo" if protocol == "echo" else self.rival.dialect


class Nchan(Process):
    """nginx, of which one process does all the work.

    nchan never sets TCP_NODELAY, and its rooms of two stall without. Connections have it from the listening socket,
    which nginx is handed as it hands them to its own successors: by the variable NGINX.
    """

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ws_port = listening.getsockname()[1]
            settings = (HERE / "nginx.conf").read_text().replace(":PORT ", f":{self.ws_port} ")
            (folder / "nginx.conf").write_text(settings)
            command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
            environment = os.environ | {"NGINX": f"{listening.fileno()};"}
            self.launch("nchan", folder, command, environment, SERVER_CORE, [listening.fileno()])

    def wait_until_ready(self) -> None:
        super().wait_until_ready()
        self.wait_for_child()

    def speaks(self, protocol: str) -> str:
        return "nchan"


def start(name: str, folder: Path, options: Sequence[str] = ()) -> Process:
    """A fresh one, whose program gets these options. What it needs has been prepared."""
    match RIVALS[name].made_with:
        case "nginx":
            return Nchan(folder)
        case "crossbar":
            return Crossbar(folder)
        case _:
            return Program(name, folder, options)
