"""A node of Mercury that keeps a list of the functions that are entered in it, for tools/road.py.

    python tools/profiled_node.py TREE CALLS FLAGS...

TREE is the folder with the `mercury` to run, which has to be first on PYTHONPATH. When the node has stopped, CALLS
holds the list as JSON: of each call the time (time.monotonic()), whether it was beside the reactor's thread, the file
and the function. Where bytes were given to a socket the file is empty, and the peer's port stands for the function.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

INLINE = ("<listcomp>", "<setcomp>", "<dictcomp>")  # no functions to a reader, nor to Python from 3.12 on
LOOP = ("tuning.py", "epoll.py")  # the reactor's loop, in which all of this happens, is no part of the road


class Profiler:
    """Keeps every entry into a function that stands below a folder."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._reactors = threading.get_ident()
        self._known: dict[CodeType, tuple[str, str] | None] = {}
        self.calls: list[tuple[float, bool, str, str]] = []

    def begin(self) -> None:
        """From now on, in this thread, which is the reactor's, and in those that begin later."""
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)

    def _hook(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code not in self._known:
                self._known[code] = self._look(code)
            if found := self._known[code]:
                self._keep(*found)
        elif event == "c_call" and arg.__name__ in ("send", "sendmsg") and isinstance(arg.__self__, socket.socket):
            with suppress(OSError):  # the peer is gone
                peer = arg.__self__.getpeername()
                self._keep("", str(peer[1]) if isinstance(peer, tuple) else "")

    def _keep(self, file: str, function: str) -> None:
        self.calls.append((time.monotonic(), threading.get_ident() != self._reactors, file, function))

    def _look(self, code: CodeType) -> tuple[str, str] | None:
        path = Path(code.co_filename)
        if self._package not in path.parents or path.name in LOOP or code.co_name in INLINE:
            return None
        return path.relative_to(self._package.parent).as_posix(), code.co_qualname


def main(tree: str, target: str, *flags: str) -> None:
    """Run the node."""
    from twisted.internet import reactor
    from twisted.scripts import twistd

    profiler = Profiler(Path(tree) / "mercury")

    def write() -> None:
        sys.setprofile(None)
        Path(target).write_text(json.dumps(profiler.calls))

    reactor.callWhenRunning(profiler.begin)
    reactor.addSystemEventTrigger("after", "shutdown", write)
    sys.argv = ["mercury", "--nodaemon", "--pidfile=", "mercury", *flags]
    twistd.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
