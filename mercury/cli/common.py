"""What mercury-admin and mercury-keys share: their help, the server's settings, and how they report.

Both are commands beside the server that work on its store.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from twisted.python.usage import UsageError
from zope.interface import provider

from mercury.node import build
from mercury.settings.flags import Flags
from mercury.settings.schema import Config


def usage(name: str, commands: Mapping[str, str], more: str) -> str:
    """How a command is called, and what each of its own commands does."""
    calls = "\n       ".join(f"{name} {call}" for call in commands)
    indent = " " * 8
    entries = (
        f"{call}\n{textwrap.fill(meaning, 110, initial_indent=indent, subsequent_indent=indent)}"
        for call, meaning in commands.items()
    )
    return "\n\n".join([calls, *entries, more]) + "\n"


def config_of(command: str, words: Sequence[str]) -> Config:
    """The settings, as `mercury` with these flags has them. Raises SystemExit if they are wrong."""
    flags = Flags()
    try:
        flags.parseOptions(words)
    except UsageError as error:
        report(command, str(error))
        sys.exit(2)
    return flags.config


def prepare(reactor: Any) -> None:
    """Prepare the process as the server does; of the log, show warnings and errors only."""
    globalLogBeginner.beginLoggingTo([_print_event], redirectStandardIO=False)
    build.prepare_process(reactor)


def report(command: str, line: str) -> None:
    """To standard error, at once."""
    print(f"{command}: {line}", file=sys.stderr, flush=True)


@provider(ILogObserver)
def _print_event(event: LogEvent) -> None:
    if event["log_level"] >= LogLevel.warn:
        print(eventAsText(event, includeTimestamp=False, includeSystem=False), file=sys.stderr, flush=True)
