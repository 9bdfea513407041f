"""Runs a systemd unit's ExecStart as systemd would, where there is no systemd: with its user, environment and sockets.

systemd.unit(5), systemd.exec(5), systemd.socket(5), sd_listen_fds(3) and sd_notify(3), as far as Mercury's units go.
What a unit asks of the kernel beside (its hardening) is not done: `systemd-analyze` judges that.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from .tree import Tree

PATIENCE: Final = 60.0  # seconds until a start or a stop is given up
PREFIXES: Final = "@-:+!"  # of ExecStart

Section = dict[str, list[str]]


def parsed(text: str) -> dict[str, Section]:
    """The sections of a unit; a setting may stand there several times."""
    sections: dict[str, Section] = {}
    section: Section = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and line[0] not in "#;":
            name, _, value = line.partition("=")
            section.setdefault(name.strip(), []).append(value.strip())
    return sections


def _specified(text: str) -> str:
    """A setting with its specifiers replaced, those that the units have."""
    text = text.replace("%S", "/var/lib").replace("%t", "/run")
    assert "%" not in text, f"{text} has a specifier that is not known here"
    return text


class Unit:
    """A service of an installed package. `ports`: those that its sockets have here, by those that their unit names."""

    def __init__(self, tree: Tree, name: str, ports: dict[int, int], log: Path) -> None:
        self._tree = tree
        self._folder = tree.root / "lib/systemd/system"
        self._name = name
        self._ports = ports
        self._log = log
        self._sockets: list[socket.socket] = []
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(f"\0mercury-package-test-{os.getpid()}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it until it says that it is ready, or for an instant if it does not say so."""
        service = parsed((self._folder / f"{self._name}.service").read_text())["Service"]
        user = service["User"][-1]
        command = shlex.split(_specified(service["ExecStart"][-1].lstrip(PREFIXES)))
        folder = _specified(service.get("WorkingDirectory", ["/"])[-1])
        environ = self._tree.environ(HOME="/var/lib/mercury", USER=user, LOGNAME=user)
        for words in service.get("Environment", []):
            environ |= dict(word.split("=", 1) for word in shlex.split(words))
        notify = service.get("Type", ["simple"])[-1].startswith("notify")
        if notify:
            environ["NOTIFY_SOCKET"] = f"@mercury-package-test-{os.getpid()}"
        environ |= self._listen()
        self._make_folders(service, user)
        files = [listening.fileno() for listening in self._sockets]

        def prepare() -> None:  # in the child
            os.umask(int(service.get("UMask", ["0022"])[-1], 8))
            if limit := service.get("LimitNOFILE"):
                most = min(int(limit[-1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])  # more is not ours to give
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            copies = [os.dup(file) for file in files]
            for number, copy in enumerate(copies, 3):
                os.dup2(copy, number)

        # Where it runs, and who the sockets are for: the shell becomes the command.
        shell = ["sh", "-c", 'cd "$0" && LISTEN_PID=$$ exec "$@"', folder]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._tree.argv(*shell, *command, user=user),
                env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=prepare, pass_fds=range(3, 3 + len(files)),
            )  # fmt: skip
        if notify:
            self._hear("READY=1")

    def _listen(self) -> dict[str, str]:
        """The sockets of the socket unit, if there is one, which stay open from then on; what tells of them."""
        path = self._folder / f"{self._name}.socket"
        if not path.exists():
            return {}
        section = parsed(path.read_text())["Socket"]
        if not self._sockets:
            for address in section["ListenStream"]:
                listening = socket.create_server(("127.0.0.1", self._ports[int(address.rpartition(":")[2])]))
                self._sockets.append(listening)
        name = section.get("FileDescriptorName", [path.name])[-1]
        return {"LISTEN_FDS": str(len(self._sockets)), "LISTEN_FDNAMES": ":".join([name] * len(self._sockets))}

    def _make_folders(self, service: Section, user: str) -> None:
        for setting, base in (("StateDirectory", "var/lib"), ("RuntimeDirectory", "run")):
            for name in " ".join(service.get(setting, [])).split():
                path = self._tree.root / base / name
                if not path.exists():
                    path.mkdir()
                    self._tree.run("chown", f"{user}:{user}", f"/{base}/{name}")
                path.chmod(int(service.get(f"{setting}Mode", ["0755"])[-1], 8))

    def _hear(self, notice: str) -> None:
        """Wait until it tells this of itself."""
        until = time.monotonic() + PATIENCE
        self._notices.settimeout(0.2)
        while True:
            try:
                if notice in self._notices.recv(65536).decode().splitlines():
                    return
            except TimeoutError:
                assert self.running, f"it ended with {self.process.returncode}\n{self.log()}"
                assert time.monotonic() < until, f"it did not say {notice}\n{self.log()}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """What runs, or ran last."""
        assert self._process, "it was not started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text("utf-8", "replace")

    def stop(self) -> int:
        """`systemctl stop`; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, whatever it does, and let the sockets go."""
        if self.running:
            self.process.kill()
            self.process.wait()
        for listening in (*self._sockets, self._notices):
            listening.close()
