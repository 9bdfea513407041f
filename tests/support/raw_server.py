"""A server in a process of its own, spoken to by plain sockets, which send what no client would.

node = RawServer(folder, "--storage.type=memory")
with node.dial("server.ws") as peer:
    peer.send(b"nonsense")
    assert peer.rest() == b""
node.stop()
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.free_ports import free_port
from tests.support.paths import ROOT
from tests.support.websocket_bytes import upgrade

PATIENCE = 30.0  # seconds after which a test gives up; never a promise
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "mercury")
LISTENERS = ("server.api", "server.ws", "gotalk")


class RawServer:
    """The server, on a store in memory, with goTalk's door open. `flags`: further ones. `proxied`: the listeners that
    are behind a proxy, by the PROXY protocol."""

    def __init__(self, folder: Path, *flags: str, proxied: Sequence[str] = ()) -> None:
        self.out = folder / "out"
        self._tokens: dict[str, str] = {}
        self.ports = {name: free_port() for name in LISTENERS}
        words = [*TWISTD, "--storage.type=memory", "--limits.connections=3000", "--gotalk.enabled"]
        words += ["--server.ws.address=127.0.0.1", "--gotalk.address=127.0.0.1"]
        words += [f"--{name}.port={port}" for name, port in self.ports.items()]
        words += [f"--{name}.endpoint=haproxy:tcp:{self.ports[name]}:interface=127.0.0.1" for name in proxied]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [*words, *flags], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out
            )
        self.until("is ready")

    def stop(self) -> None:
        """End it, as an operator does."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0

    def until(self, said: str) -> None:
        """Wait until it has said this."""
        end = time.monotonic() + PATIENCE
        while said not in self.out.read_text():
            assert time.monotonic() < end, self.out.read_text()
            assert self.process.poll() is None, self.out.read_text()
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """The lines that it has logged or printed as warnings, or worse, and all that is no line of its log."""
        log = self.out.read_text().splitlines()
        first = next(at for at, line in enumerate(log) if line.startswith("{"))
        shown = [line for line in log[first:] if not line.startswith("{") and "Traceback" in line]
        return shown + [line for line in log if line.startswith("{") and json.loads(line)["level"] not in CALM]

    # What it takes

    def resident_kb(self) -> int:
        """Its memory."""
        return self._status("VmRSS")

    def peak_kb(self) -> int:
        """The most that this was since forget_peak()."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Begin anew with the most."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))

    def sockets(self) -> int:
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # To speak with it

    def dial(self, listener: str) -> Peer:
        """A TCP connection to one of its ports."""
        return Peer(socket.create_connection(("127.0.0.1", self.ports[listener]), PATIENCE))

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A REST call that has to succeed."""
        caller = http.client.HTTPConnection("127.0.0.1", self.ports["server.api"], timeout=PATIENCE)
        caller.request(method, path, None if body is None else json.dumps(body))
        answer = json.load(caller.getresponse())
        caller.close()
        assert answer["status"] == "ok", answer
        return answer.get("body")

    def token(self, member: str) -> str:
        """A member's token, always the same."""
        if member not in self._tokens:
            self._tokens[member] = str(self.call("POST", "/api/tokens", {"member": member})["token"])
        return self._tokens[member]

    def upgraded(self, protocol: str = "", member: str = "", *headers: str) -> Peer:
        """A WebSocket connection: of a member, or of somebody who has not logged in yet."""
        peer = self.dial("server.ws")
        query = f"?member={member}&token={self.token(member)}" if member else ""
        spoken = [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
        peer.send(upgrade(f"/ws/connect{query}", *spoken, *headers))
        head = peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return peer


CALM = ("debug", "info")


class Peer:
    """A stranger's end of a connection. What was read and not yet looked at is in `data`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send it, or as much of it as the other side takes before it hangs up."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def more(self) -> bool:
        """Read on, until something comes: whether it did, or else the other side has hung up."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            return False
        self.data += data
        return bool(data)

    def until(self, end: bytes) -> bytes:
        """Take what comes, up to this."""
        while end not in self.data and self.more():
            pass
        found, end, self.data = self.data.partition(end)
        return found + end

    def rest(self) -> bytes:
        """Take all that comes until the other side hangs up."""
        while self.more():
            pass
        found, self.data = self.data, b""
        return found

    def answer(self) -> Any:
        """Take one HTTP answer: its JSON."""
        head = self.until(b"\r\n\r\n").lower()
        size = int(head.partition(b"content-length: ")[2].split()[0])
        while len(self.data) < size and self.more():
            pass
        body, self.data = self.data[:size], self.data[size:]
        return json.loads(body)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """The WebSocket frames that come: opcode and payload; the last one, when the other side has hung up, is
        (-1, b"")."""
        while True:
            while len(self.data) < 2 or len(self.data) < (end := _end(self.data)):
                if not self.more():
                    yield -1, b""
                    return
            start = 2 if self.data[1] < 126 else 4 if self.data[1] == 126 else 10
            first, payload, self.data = self.data[0], self.data[start:end], self.data[end:]
            if first & 0x40:  # RFC 7692, 7.2.2
                payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
            yield first & 15, payload


def _end(data: bytes) -> int:
    """Where the first frame ends, as far as can be told."""
    if data[1] < 126:
        return 2 + data[1]
    size = 2 if data[1] == 126 else 8
    return 2 + size + int.from_bytes(data[2 : 2 + size], "big")


def request(path: str, body: bytes = b"", kind: str = "application/json", method: str = "POST") -> bytes:
    """An HTTP request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
