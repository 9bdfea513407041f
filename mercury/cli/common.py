"""What the commands beside the server, mercury-keys and mercury-admin, have in common: how they tell what they do, and
how they take the server's settings and work on its store."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from twisted.python.usage import UsageError
from zope.interface import provider

from mercury.node import build
from mercury.settings.flags import Options


def usage(name: str, commands: Mapping[str, str], more: str) -> str:
    """How a command is called, and what each of its own commands does."""
    calls = "\n       ".join(f"{name} {call}" for call in commands)
    indent = " " * 8
    told = (
        f"{call}\n{textwrap.fill(meaning, 110, initial_indent=indent, subsequent_indent=indent)}"
        for call, meaning in commands.items()
    )
    return "\n\n".join([calls, *told, more]) + "\n"


def options_of(command: str, flags: Sequence[str]) -> Options:
    """The settings, as `mercury` with these flags has them. Raises SystemExit if they are wrong."""
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
    build.prepare_process(reactor)


def say(command: str, line: str) -> None:
    """To standard error, at once."""
    print(f"{command}: {line}", file=sys.stderr, flush=True)


@provider(ILogObserver)
def _show(event: LogEvent) -> None:
    if event["log_level"] >= LogLevel.warn:
        print(eventAsText(event, includeTimestamp=False, includeSystem=False), file=sys.stderr, flush=True)
