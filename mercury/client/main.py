"""The command `mercury-client`: chat in one room, from a terminal or a script."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from mercury.domain.model import check_name
from mercury.errors import MercuryError

DESCRIPTION = """\
Chat in a room of a Mercury server. The client gets a token for the member, adds the member to the room and stays
connected: after a lost connection it reconnects by itself, misses nothing, and sends what you typed meanwhile. Ctrl-D
ends it.

Without a terminal, it sends each line of its standard input and prints the room's messages. It ends when the input has
ended and all messages are acknowledged:  echo "Good morning" | mercury-client --member=1
"""


def parser() -> argparse.ArgumentParser:
    """The flags; a wrong value ends the program with one line that names it."""
    parser = argparse.ArgumentParser(
        prog="mercury-client",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--member", required=True, type=partial(_name, "member"), metavar="NAME", help="who you are")
    parser.add_argument(
        "--room",
        default="2333",
        type=partial(_name, "room"),
        metavar="NAME",
        help="the room to chat in; default: %(default)s",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the server's address; default: %(default)s")
    parser.add_argument(
        "--api.port",
        dest="api_port",
        default=6009,
        type=_port,
        metavar="PORT",
        help="the server's REST port; default: %(default)s",
    )
    parser.add_argument(
        "--ws.port",
        dest="ws_port",
        default=6010,
        type=_port,
        metavar="PORT",
        help="the server's WebSocket port; default: %(default)s",
    )
    parser.add_argument(
        "--api.key",
        dest="api_key",
        default=os.environ.get("MERCURY_API_KEY", ""),
        metavar="KEY",
        help="the API key, if the server requires one; MERCURY_API_KEY sets it without showing it to others",
    )
    return parser


def _name(what: str, value: str) -> str:
    try:
        return check_name(what, value)
    except MercuryError as error:
        raise argparse.ArgumentTypeError(error.reason) from None


def _port(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is not a port; a port is a number from 1 to 65535")
    return int(value)


def main(argv: Sequence[str] | None = None) -> None:
    """Run it; raises SystemExit with its exit code."""
    options = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the locale lacks is no reason to fail
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    from twisted.internet import asyncioreactor  # prompt_toolkit needs asyncio; only then may Twisted's reactor be used

    asyncioreactor.install(loop)
    from twisted.internet import reactor
    from twisted.internet.task import react

    reactor.seconds = time.monotonic  # type: ignore[method-assign]  # a clock set back must not freeze the timers
    react(_run, (options,))


async def _run(reactor: Any, options: argparse.Namespace) -> None:
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.logger import (
        FilteringLogObserver,
        LogLevel,
        LogLevelFilterPredicate,
        globalLogBeginner,
        textFileLogObserver,
    )

    from mercury.client.connection import Client
    from mercury.client.pipe import Pipe
    from mercury.client.rest import ServerAddress
    from mercury.client.terminal import Terminal
    from mercury.client.text import Writer

    # Autobahn and Twisted log much that does not concern the person at the terminal.
    errors = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(LogLevel.error)])
    globalLogBeginner.beginLoggingTo([errors], redirectStandardIO=False)
    server = ServerAddress(options.host, options.api_port, options.ws_port, options.api_key)
    client = Client(reactor, options.member, [options.room], lambda event: view.on_event(event), server=server)
    view: Terminal | Pipe
    if sys.stdin.isatty() and sys.stdout.isatty():
        coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        view = Terminal(client, options.room, Writer(options.member, options.room, coloured=coloured))
    else:
        view = Pipe(reactor, client, options.room, Writer(options.member, options.room, coloured=False))
    done: Deferred[None] = Deferred()

    async def connect() -> None:
        try:
            await client.start()
        except CancelledError:
            return
        except MercuryError as error:
            view.end(error.reason)
        except Exception:
            view.end("an internal error in the client")
            raise

    def interrupted() -> Deferred[None]:
        view.end()
        return done

    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    connecting = Deferred.fromCoroutine(connect())
    try:
        code = await view.run()
    finally:
        await client.stop()
        await connecting
        done.callback(None)  # in any case: the reactor waits for this
    raise SystemExit(code)
