"""What a node and the supervisor of workers both need of twistd: the log, and how the process ends."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from twisted.application.service import IServiceCollection
from twisted.logger import ILogObserver

from mercury.node.logs import log_stream, observer
from mercury.settings.schema import LogSettings

STOP_SECONDS: Final = 10.0  # for all that is still going on when Mercury is told to stop, closing connections aside


def is_in_foreground(twistd: Mapping[str, Any]) -> bool:
    """Whether a person may be watching. `twistd`: twistd's own options."""
    return bool(twistd.get("nodaemon"))


def log_file(twistd: Mapping[str, Any]) -> str | None:
    """The file that is logged to; None for standard output."""
    path = twistd.get("logfile")
    return None if path == "-" or (is_in_foreground(twistd) and not path) else path or "mercury.log"


def take_log(parent: Any, twistd: Mapping[str, Any], settings: LogSettings, worker: int | None = None) -> Any:
    """Write all of the application's log in our format; each line names the worker, if this is one. Returns the parent
    to give the service."""
    if hasattr(parent, "setComponent"):
        parent.setComponent(ILogObserver, observer(log_stream(log_file(twistd)), settings, worker))
    return IServiceCollection(parent, parent)


def refuse(twistd: Mapping[str, Any], line: str) -> NoReturn:
    """End a start that has failed: in the foreground by exiting, else by an exception that twistd reports."""
    if not is_in_foreground(twistd):
        raise RuntimeError(line)
    print_to_terminal(f"mercury: {line}")
    sys.exit(1)


def print_to_terminal(text: str) -> None:
    """For the person who started Mercury: sys.stderr is the log by now."""
    print(text, file=sys.__stderr__, flush=True)


def fail_at_exit() -> None:
    """When the process ends, exit with a code that says that something failed."""
    atexit.register(_exit_with_failure)


def end_with_failure(reactor: Any) -> None:
    """Stop, and exit with such a code."""
    fail_at_exit()
    reactor.callWhenRunning(reactor.stop)


def ended_well(reactor: Any) -> None:
    """A requested stop that is complete is a success: twistd exits with 0."""
    reactor._exitSignal = None


def _exit_with_failure() -> None:
    """At the interpreter's end, after twistd has tidied up: it has no way of its own to exit with a code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
