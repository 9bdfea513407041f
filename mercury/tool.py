"""What the commands beside the server have in common, which work with its settings on its store: mercury-keys rewrite,
and mercury-admin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from twisted.python.usage import UsageError
from zope.interface import provider

from mercury import tap
from mercury.options import Options


def options_of(command: str, flags: Sequence[str]) -> Options:
    """The settings, as `twistd mercury` with these flags has them. Raises SystemExit if they are wrong."""
    options = Options()
    try:
        options.parseOptions(flags)
    except UsageError as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(2)
    return options


def begin(reactor: Any) -> None:
    """What the server does first, but that of its log only warnings and errors are shown."""
    globalLogBeginner.beginLoggingTo([_show], redirectStandardIO=False)
    tap.prepare_process(reactor)


def say(command: str, line: str) -> None:
    """To standard error, at once."""
    print(f"{command}: {line}", file=sys.stderr, flush=True)


@provider(ILogObserver)
def _show(event: LogEvent) -> None:
    if event["log_level"] >= LogLevel.warn:
        print(eventAsText(event, includeTimestamp=False, includeSystem=False), file=sys.stderr, flush=True)
