"""The log: each of Twisted's events, new or old style, becomes one line of JSON or logfmt.

A line has `time`, `level`, `system` (what logged it), `message`, the event's own simple fields, and `traceback` for a
failure. Text that came from users is escaped, so that no event makes two lines or moves a terminal's cursor. Nobody
logs a secret on purpose; for the day when somebody does by mistake, what looks like one is replaced here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Final, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.domain.events import rfc3339
from mercury.domain.log_context import LOG_CONTEXT
from mercury.settings.schema import LogSettings

LEVELS: Final = {"debug": 0, "info": 1, "warn": 2, "error": 3, "critical": 4}

#: These log requests and frames, which hold tokens and messages: less than a warning of theirs is never logged.
NOISY: Final = re.compile(r"(autobahn|twisted\.web)(\.|$)")

LONGEST: Final = 16_384  # characters of one field; what is cut off is marked

#: Keys of an event that say how, not what: old-style events carry them, and what they say is in other fields.
INTERNAL: Final = frozenset({"failure", "format", "isError", "logLevel", "message", "printed", "system", "time", "why"})

#: What names a secret, then its value: in quotes (escaped ones too), or up to the end of the word.
SECRET: Final = re.compile(
    r"""(?xis)
    ( (?: token | password | passwd | secret | authorization ) (?: \\*["'] )? \s* (?: = | : | %3D ) \s*
      (?: (?: basic | bearer | token ) \s+ )?
    | \b bearer \s+ )
    (?: b? (?P<quote> \\*["'] ) (?: (?! (?P=quote) ) (?: \\. | . ) )* (?: (?P=quote) )?
      | [^\s"'\\&;,)\]}]+ )
    """
)
#: 256 random bits standing alone, as Mercury writes tokens (base64url) and as others do (hex).
RANDOM: Final = re.compile(r"(?a)(?<![\w-])(?:(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{43}|[0-9a-fA-F]{64})(?![\w-])")

UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
UNSAFE_KEY: Final = re.compile(r"[^\w.-]", re.ASCII)
BARE: Final = re.compile(r"""[^\s="\\]+""")


def observer(stream: TextIO, settings: LogSettings, worker: int | None = None) -> ILogObserver:
    """An observer that writes events of at least the level of the settings, in their format, as they are then. Each
    line names the worker, if it is one's."""
    return _Observer(stream, settings, {} if worker is None else {"worker": worker})


def log_stream(path: str | None = None) -> TextIO:
    """Where lines go: the file, appended to, or standard output. UTF-8 whatever the locale, flushed at each line's end.

    Standard output is opened anew: twistd makes sys.stdout write to the log, which would then write to itself.
    """
    if path is None:
        return open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    return Path(path).open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


@implementer(ILogObserver)
class _Observer:
    """Never raises: whoever logs has something else to do, and a full disk must not stop a chat."""

    def __init__(self, stream: TextIO, settings: LogSettings, own: Mapping[str, object]) -> None:
        self._stream = stream
        self._settings = settings
        self._own = own

    def __call__(self, event: LogEvent) -> None:
        try:
            if not self._wanted(event):
                return
            form = FORMS[self._settings.format]
            try:
                line = form(_fields(event, self._own))
            except Exception as error:  # some object's own __str__, most likely
                line = form(_fields(_unwritable(error), self._own))
            self._stream.write(line + "\n")
        except Exception:  # noqa: S110 - there is nowhere left to say it
            pass

    def _wanted(self, event: LogEvent) -> bool:
        least = LEVELS["warn"] if NOISY.match(str(event.get("log_namespace", ""))) else 0
        return LEVELS[_level(event)] >= max(LEVELS[self._settings.level], least)


def _unwritable(error: Exception) -> LogEvent:
    words = f"an event could not be written: {type(error).__name__}"
    return {"log_time": time.time(), "log_level": LogLevel.error, "log_namespace": "mercury.logs", "log_format": words}


def _level(event: LogEvent) -> str:
    name = getattr(event.get("log_level"), "name", "info")
    return name if name in LEVELS else "info"


def _fields(event: LogEvent, own: Mapping[str, object]) -> dict[str, object]:
    """What a line says, in order; `own` is on each."""
    level = _level(event)
    failure = event.get("log_failure") or event.get("failure")
    fields: dict[str, object] = {
        "time": rfc3339(int(event.get("log_time", time.time()) * 1_000_000)),
        "level": "error" if level == "critical" else level,
        "system": _clean(str(event.get("log_system") or event.get("log_namespace") or "-")),
        "message": _clean(_message(event, failure)),
        **own,
    }
    if (log_context := LOG_CONTEXT.get()) is not None and log_context[0] not in event:
        fields[log_context[0]] = log_context[1]
    for name, value in event.items():
        if name.startswith("log_") or name in INTERNAL or name in fields:
            continue
        if SECRET.search(f"{name}=x"):
            fields[name] = "***"
        elif isinstance(value, float) and not isfinite(value):
            fields[name] = str(value)  # JSON has no such numbers
        elif isinstance(value, str):
            fields[name] = _clean(value)
        elif value is None or isinstance(value, int | float):
            fields[name] = value
    if isinstance(failure, Failure):
        fields["traceback"] = _clean(failure.getTraceback())
    return fields


def _message(event: LogEvent, failure: object) -> str:
    """The event in words. An old-style one has the traceback in them, which has a field of its own."""
    if isinstance(failure, Failure) and "log_text" in event:
        return str(event.get("why") or "Unhandled Error")
    text = formatEvent(event)
    return text if text or not isinstance(failure, Failure) else failure.getErrorMessage()


def _clean(text: str) -> str:
    """A text without what looks like a secret, and not longer than a field may be."""
    text = RANDOM.sub("***", SECRET.sub(r"\1***", text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [{len(text) - LONGEST} characters cut off]"


def _json(fields: Mapping[str, object]) -> str:
    return _escape(json.dumps(fields, ensure_ascii=False))


def _logfmt(fields: Mapping[str, object]) -> str:
    return " ".join(f"{UNSAFE_KEY.sub('_', name)}={_logfmt_value(value)}" for name, value in fields.items())


def _logfmt_value(value: object) -> str:
    if isinstance(value, str) and BARE.fullmatch(value) and value.isprintable():
        return value
    return _escape(json.dumps(value, ensure_ascii=False))


def _escape(text: str) -> str:
    """JSON with all escaped that is not printable: Unicode's own line ends, terminals' C1 codes, lone surrogates."""
    return UNPRINTABLE.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


FORMS: Final[Mapping[str, Callable[[Mapping[str, object]], str]]] = {"json": _json, "logfmt": _logfmt}
