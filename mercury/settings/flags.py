"""The flags of `mercury`: one for each setting in mercury/settings/schema.py, and how they are parsed.

Every command that needs the server's settings takes these flags: `mercury` itself (mercury/tap.py), mercury-admin and
mercury-keys (mercury/cli/). Files and the environment are read at the same time, by mercury/settings/sources.py.
"""

from __future__ import annotations

import getopt
import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

from twisted.python import usage

from mercury import __version__
from mercury.settings.schema import Config
from mercury.settings.sources import (
    CONFIG_FILE,
    DEFAULT_FILE,
    SETTINGS,
    Setting,
    as_text,
    load,
    nearest,
    settings_file,
    variable,
)
from mercury.settings.types import ConfigError

FILE_VARIABLE = variable(CONFIG_FILE)
FILE_HELP = (
    f"The settings file: TOML, YAML or JSON, by its extension. Default: ${FILE_VARIABLE}, else "
    f"./{DEFAULT_FILE} if it exists."
)

#: The flags that are no settings, with what they do.
GENERAL = [
    ("-c, --config=, --config.file=", FILE_HELP),
    ("--version", "Show Mercury's version and exit."),
    ("--help", "Show this help and exit."),
]


class Flags(usage.Options):
    """A parser with a flag for each setting. A wrong flag, or a wrong value in any source, is a UsageError of one line.

    After parseOptions(), `config` holds the settings of all sources and `warnings` what the log should say; `given` has
    the flags that were given, by the settings' paths.
    """

    optParameters: ClassVar[list[list[str | None]]] = [  # noqa: N815 - Twisted's name
        [CONFIG_FILE, "c", None, FILE_HELP],
        *([setting.path, None, None, setting.description] for setting in SETTINGS.values()),
    ]

    config: Config
    given: dict[str, str]
    warnings: list[str]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.longOpt.append("config=")
        self.synonyms["config"] = CONFIG_FILE

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the flags, then all other sources."""
        words = [_explicit(flag) for flag in (sys.argv[1:] if options is None else options)]
        try:
            super().parseOptions(words)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            raise usage.UsageError(_explained(error)) from None

    def parseArgs(self, *args: str) -> None:
        """There are none; what is left over may be a secret, so it is not repeated."""
        if args:
            raise usage.UsageError("unexpected argument: write flags as --name=value")

    def postOptions(self) -> None:
        """Read the file and the environment too."""
        self.given = {path: text for path, text in self.items() if text is not None}
        try:
            self.config, self.warnings = load(self.given, os.environ)
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        if file := settings_file(self.given, os.environ):  # the same one later, also from another directory
            self.given[CONFIG_FILE] = str(file.absolute())

    def read_again(self) -> Config:
        """The settings as the same sources give them now. ConfigError at the first thing that is wrong; a file that was
        read and is not there any more is such a thing."""
        return load(self.given, os.environ)[0]

    def opt_version(self) -> None:
        """Show Mercury's version and exit."""
        print("Mercury", __version__)
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        """The help: flags in sections, with their defaults."""
        columns = width or int(os.environ.get("COLUMNS", "80"))
        lines = ["Options:"]
        for flag, text in GENERAL:
            lines += _entry(flag, text, columns)
        for section, settings in groupby(SETTINGS.values(), key=lambda setting: setting.section):
            lines += ["", section.__doc__ or ""]
            for setting in settings:
                lines += _entry(f"--{setting.path}=", help_of(setting), columns)
        return "\n".join([*lines, ""])


def _entry(flag: str, text: str, columns: int) -> list[str]:
    indent = " " * 8
    return [f"  {flag}", *textwrap.wrap(text, columns, initial_indent=indent, subsequent_indent=indent)]


def help_of(setting: Setting) -> str:
    """What a setting means, what may be given, and its default."""
    default = f"; default: {as_text(setting.default)}" if setting.default != "" else ""
    return f"{setting.description} [{setting.allowed}{default}]"


def _explicit(flag: str) -> str:
    """`--server.ws.compression` alone means true; getopt knows only flags with a value or without."""
    setting = SETTINGS.get(flag.removeprefix("--"))
    return f"{flag}=true" if flag.startswith("--") and setting and setting.kind is bool else flag


def _explained(error: usage.UsageError) -> str:
    """What to print: for a flag that getopt does not know, the one that looks most like it."""
    cause = error.__context__
    if isinstance(cause, getopt.GetoptError) and cause.msg.endswith("not recognized"):
        dashes = "--" if len(cause.opt) > 1 else "-"
        return f"unknown flag {dashes}{cause.opt}{nearest(cause.opt, [*SETTINGS, CONFIG_FILE], '--')}"
    return str(error)
