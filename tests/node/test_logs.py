"""The log: every event is one line that a machine can read, and no secret gets into it."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LegacyLogObserverWrapper, Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.python import log as old_log
from twisted.python.failure import Failure
from txaio import tx
from zope.interface.verify import verifyObject

from mercury.node.logs import LEVELS, LONGEST, log_stream, observer
from mercury.settings import schema as settings
from mercury.settings.types import Secret
from tests.support.paths import ROOT

CANARY = secrets.token_urlsafe(32)
PASSWORD = "canary 8Qw2"


class LogSettings:
    """Events in, lines out."""

    def __init__(self, format: Any = "json", level: Any = "debug") -> None:
        self.stream = io.StringIO()
        self.observer = observer(self.stream, settings.LogSettings(format=format, level=level))
        self.logger = Logger(namespace="here", observer=self.observer)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def last(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.lines[-1])
        return line


@pytest.fixture
def everything() -> Iterator[LogSettings]:
    """What the whole process logs, old style and new."""
    log = LogSettings()
    globalLogPublisher.addObserver(log.observer)
    yield log
    globalLogPublisher.removeObserver(log.observer)


def failure_of(error: Exception) -> Failure:
    try:
        raise error
    except Exception:
        return Failure()


def test_it_is_an_observer() -> None:
    assert verifyObject(ILogObserver, LogSettings().observer)


def test_an_event_is_a_line_of_json_with_its_own_simple_fields() -> None:
    log = LogSettings()
    event = {
        "log_time": 1_800_000_000.25,
        "log_level": LogLevel.warn,
        "log_namespace": "mercury.core",
        "log_format": "{member} came",
        "member": "ann",
        "rooms": 3,
        "took": 0.5,
        "ok": True,
        "none": None,
        "odd": float("nan"),
        "thing": object(),
    }
    log.observer(event)
    assert log.last == {
        "time": "2027-01-15T08:00:00.250000Z",
        "level": "warn",
        "system": "mercury.core",
        "message": "ann came",
        "member": "ann",
        "rooms": 3,
        "took": 0.5,
        "ok": True,
        "none": None,
        "odd": "nan",
    }


def test_an_events_fields_do_not_replace_the_lines_own() -> None:
    log = LogSettings()
    own = {"log_level": LogLevel.info, "log_format": "it is", "log_system": "here", "log_time": 0.0}
    log.observer({**own, "level": "fake", "message": "fake", "system": "fake", "time": "fake"})
    assert log.last == {"time": "1970-01-01T00:00:00.000000Z", "level": "info", "system": "here", "message": "it is"}


def test_logfmt() -> None:
    log = LogSettings("logfmt")
    log.observer(
        {
            "log_time": 1_800_000_000.0,
            "log_level": LogLevel.info,
            "log_namespace": "here",
            "log_format": 'a "b"',
            "plain": "x-1",
            "empty": "",
            "equals": "a=b",
            "slash": "\\",
            "line": "a\nb",
            "wide": "a\u3000b",
            "n": 1,
            "yes": True,
            "no thing": None,
        }
    )
    assert log.text == (
        'time=2027-01-15T08:00:00.000000Z level=info system=here message="a \\"b\\"" plain=x-1 empty="" equals="a=b" '
        'slash="\\\\" line="a\\nb" wide="a\\u3000b" n=1 yes=true no_thing=null\n'
    )


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error"])
def test_only_events_of_the_level_or_above_are_written(level: str) -> None:
    log = LogSettings(level=level)
    for name in LEVELS:
        log.logger.emit(LogLevel.lookupByName(name), name)
    written = [json.loads(line)["message"] for line in log.lines]
    assert written == ["debug", "info", "warn", "error", "critical"][LEVELS[level] :]
    assert log.last["level"] == "error", "critical is called error: there are four levels"


def test_a_failure_has_its_traceback() -> None:
    log = LogSettings()
    log.logger.failure("sending to {rid}", failure_of(KeyError("deep")), rid="r")
    assert (log.last["message"], log.last["rid"]) == ("sending to r", "r")
    assert log.last["traceback"].rstrip().endswith("KeyError: 'deep'")
    assert len(log.lines) == 1
    log.observer({"log_failure": failure_of(ValueError("alone")), "log_level": LogLevel.critical})
    assert log.last["message"] == "alone"


def test_old_style_events(everything: LogSettings) -> None:
    old_log.msg("hello", "there", system="old", rooms=2)
    assert everything.last["message"] == "hello there"
    assert (everything.last["level"], everything.last["system"], everything.last["rooms"]) == ("info", "old", 2)
    old_log.msg(format="%(n)d rooms", n=4)
    assert everything.last["message"] == "4 rooms"


def test_old_style_errors(everything: LogSettings) -> None:
    old_log.err(failure_of(ValueError("bad")), "while testing")
    assert (everything.last["level"], everything.last["message"]) == ("error", "while testing")
    assert "ValueError: bad" in everything.last["traceback"]
    old_log.err(failure_of(ValueError("bad")))
    assert everything.last["message"] == "Unhandled Error"
    assert len(everything.lines) == 2


def test_an_event_that_another_observer_made_old_style_is_still_itself() -> None:
    """Twisted's wrapper for old observers adds keys to the event that all observers share."""
    log = LogSettings()
    publisher = LogPublisher(LegacyLogObserverWrapper(lambda event: None), log.observer)  # type: ignore[arg-type]
    Logger(namespace="here", observer=publisher).failure("it {what}", failure_of(ValueError("x")), what="broke")
    assert (log.last["message"], log.last["what"]) == ("it broke", "broke")
    assert set(log.last) == {"time", "level", "system", "message", "what", "traceback"}


# One line, whatever is in it


ANYTHING = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@given(st.sampled_from(["json", "logfmt"]), ANYTHING, ANYTHING)
def test_no_text_makes_two_lines_or_commands_a_terminal(format: str, text: str, name: str) -> None:
    log = LogSettings(format)
    log.observer({"log_format": "{a}", "a": text, "log_namespace": text, name: text})
    assert log.text.endswith("\n")
    assert log.text[:-1].isprintable()
    assert len(log.lines) == 1


@given(st.text())
def test_json_gives_the_text_back(text: str) -> None:
    log = LogSettings()
    log.observer({"log_format": "{words}", "words": f"<{text}>"})
    assert log.last["words"] == log.last["message"] == f"<{text}>"


def test_text_of_all_languages_stays_readable() -> None:
    log = LogSettings()
    log.logger.info("привет 你好 ß 🙂")
    assert "привет 你好 ß 🙂" in log.text


def test_a_long_text_is_cut() -> None:
    log = LogSettings()
    log.logger.info("{text}", text="x" * (LONGEST + 7))
    assert log.last["message"] == "x" * LONGEST + " [7 characters cut off]"


# Nothing raises


class Broken:
    def __str__(self) -> str:
        raise RuntimeError(CANARY)

    __repr__ = __str__


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"log_format": "{x}"},
        {"log_format": "{x}", "x": Broken()},
        {"log_format": 5},
        {"log_namespace": Broken()},
        {"log_system": Broken()},
        {"log_time": "yesterday"},
        {"log_time": 1e300},
        {"log_level": "info"},
        {"log_failure": "not one"},
        {"failure": failure_of(ValueError("x")), "log_text": "x", "why": Broken()},
        {5: "x"},
        {"big": 10**5000},
    ],
    ids=range(13),
)
def test_a_broken_event_is_told_and_never_raises(event: dict[Any, Any]) -> None:
    log = LogSettings()
    log.observer(event)
    assert len(log.lines) <= 1
    assert CANARY not in log.text


def test_what_could_not_be_written_is_told() -> None:
    log = LogSettings()
    log.observer({"log_format": "x", "log_time": "yesterday"})
    assert log.last["message"] == "an event could not be written: ValueError"
    assert log.last["level"] == "error"


def test_a_full_disk_does_not_raise() -> None:
    log = LogSettings()
    log.stream.close()
    log.logger.error("nobody will read this")


# No secrets


@pytest.mark.parametrize("format", ["json", "logfmt"])
@pytest.mark.parametrize(
    "text",
    [
        "GET /ws/connect?token={}&member=1 HTTP/1.1",
        "GET /ws/connect?member=1&token={}",
        "token%3D{}",
        '{{"status":"ok","body":{{"token":"{}"}}}}',
        '{{"type": "connect", "token" : "{}", "member": "1"}}',
        "{{'token': '{}'}}",
        'b\'{{"token":"{}"}}\'',
        '"{{\\"token\\":\\"{}\\"}}"',
        '{{\\\\"token\\\\": \\\\"{}\\\\"',
        "Token: {}",
        "access_token={}",
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        "'authorization', 'Bearer {}'",
        "password={}",
        "--mysql.password={}",
        "PASSWORD = {}",
        "password='{} and more'",
        'password="{}',
        'token="a\\"{}" b',
        "secret={}",
    ],
)
def test_what_looks_like_a_secret_is_replaced(format: str, text: str) -> None:
    """In the message, in a field and in a traceback."""
    log = LogSettings(format)
    secret = "s3cr3t"
    log.logger.failure("{frame}", failure_of(ValueError(text.format(secret))), frame=text.format(secret))
    assert "***" in log.text
    assert secret not in log.text


def test_a_password_with_spaces_in_quotes_is_replaced_whole() -> None:
    log = LogSettings()
    log.logger.info("{it}", it=f"connect(password='{PASSWORD}', user='u')")
    assert log.last["it"] == "connect(password=***, user='u')"


@pytest.mark.parametrize("token", [CANARY, secrets.token_hex(32)], ids=["ours", "hexadecimal"])
def test_a_token_standing_alone_is_replaced(token: str) -> None:
    log = LogSettings()
    log.logger.failure("{t} was it", failure_of(KeyError(token)), t=token, ts=f"({token}, {token})")
    assert token not in log.text
    assert log.last["message"] == "*** was it"
    assert log.last["ts"] == "(***, ***)"


def test_a_field_named_like_a_secret_is_replaced() -> None:
    log = LogSettings()
    log.logger.info("x", password="a b", token=5, user_token="z", secret=Secret("s"), tokens=3)
    assert [log.last[name] for name in ("password", "token", "user_token", "secret", "tokens")] == ["***"] * 4 + [3]


def test_what_is_no_secret_stays() -> None:
    log = LogSettings()
    for text in (
        "the token is expired",
        "mysql.password-file: no cannot be read",
        "tokens=3",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "GET /api/token?member=1",
    ):
        log.logger.info("{it}", it=text)
        assert log.last["it"] == text


@pytest.mark.parametrize(
    "namespace", ["autobahn.websocket.protocol", "twisted.web.http._GenericHTTPChannel", "autobahn"]
)
def test_libraries_that_log_requests_and_frames_are_heard_only_from_warn_on(namespace: str) -> None:
    log = LogSettings()
    logger = Logger(namespace=namespace, observer=log.observer)
    logger.debug("a frame")
    logger.info("a request")
    assert log.lines == []
    logger.warn("trouble")
    assert log.last["message"] == "trouble"
    Logger(namespace="autobahnish", observer=log.observer).debug("other")
    assert log.last["message"] == "other"


def test_autobahns_own_loggers_are_among_them(everything: LogSettings) -> None:
    """Its logger's namespace is found by what it does, not by what we think it is called."""
    logger = WebSocketServerFactory.log
    before = tx.get_global_log_level()
    logger.set_log_level("debug", keep=False)
    try:
        logger.debug("frame {payload}", payload=PASSWORD)
        logger.info("request {payload}", payload=PASSWORD)
        assert PASSWORD not in everything.text
        logger.warn("trouble")
        assert everything.last["message"] == "trouble"
    finally:
        logger.set_log_level(before, keep=False)


# Where lines go


def test_a_file_is_appended_to_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "mercury.log"
    path.write_text("before\n")
    with log_stream(str(path)) as stream:
        Logger(observer=observer(stream, settings.LogSettings())).info("привет")
        lines = path.read_text(encoding="utf-8").splitlines()  # before it is closed
    assert lines[0] == "before"
    assert json.loads(lines[1])["message"] == "привет"


@pytest.mark.slow
def test_standard_output_is_utf8_and_is_not_the_sys_stdout_that_twistd_turns_into_the_log() -> None:
    code = """
from twisted.logger import Logger, globalLogBeginner
from mercury.settings.schema import LogSettings
from mercury.node.logs import log_stream, observer
globalLogBeginner.beginLoggingTo([observer(log_stream(), LogSettings())])
Logger().info("\\u043f\\u0440\\u0438\\u0432\\u0435\\u0442")
print("printed")
"""
    environ = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, check=True)
    messages = [json.loads(line)["message"] for line in done.stdout.decode("utf-8").splitlines()]
    assert messages == ["привет", "printed"]
