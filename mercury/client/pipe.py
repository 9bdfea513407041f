"""The client in a script: sends the lines of standard input; prints messages to standard output, notes to stderr.

At the end of the input it waits until all is acknowledged and all that the room holds was printed, so that a script can
say something, or nothing, and read what was said.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.client.connection import Client, ClientEvent, Reconnecting
from mercury.client.text import Writer, safe
from mercury.domain.events import CaughtUp, Hello, Message
from mercury.errors import MercuryError

LINE_BYTES: Final = 65536
AHEAD: Final = 100  # lines that are read and not acknowledged, at most
LAST_SECONDS: Final = 30.0  # that the end waits for acknowledgements


@implementer(IReadDescriptor)
class Pipe:
    """One script in one room. Reads only when there is something to read, so that standard input needs no O_NONBLOCK,
    which other programs would see too.
    """

    def __init__(self, reactor: Any, client: Client, room: str, writer: Writer) -> None:
        self._reactor = reactor
        self._client = client
        self._room = room
        self._writer = writer
        self._done: Deferred[int] = Deferred()
        self._last_reason = ""
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._ended = False
        self._caught_up = False
        self._acknowledged = 0
        self._limit: IDelayedCall | None = None
        self._code = 0

    # Events

    def on_event(self, event: ClientEvent) -> None:
        """Print it."""
        match event:
            case Message():
                self._print(self._writer.message(event))
            case CaughtUp(rid=self._room):
                self._caught_up = True
            case Hello():
                self._last_reason = ""
            case Reconnecting(reason=reason):
                self._caught_up = False
                if reason != self._last_reason:
                    self._last_reason = reason
                    self._note(f"{reason}; reconnecting")
        self._check()

    def end(self, refusal: str | None = None) -> None:
        """Stop; with a reason if the server refuses us."""
        if refusal is not None:
            self._fail(refusal)
        elif self._left():
            self._fail(f"stopped; {self._left()} lines are not acknowledged")
        self._finish()

    async def run(self) -> int:
        """Chat until the input ends, or end(); returns the exit code: 0 if all that was read is acknowledged."""
        self._reactor.addReader(self)
        return await self._done

    # Standard input

    def fileno(self) -> int:
        """Standard input."""
        return 0

    def logPrefix(self) -> str:
        """What the reactor calls it."""
        return "standard input"

    def doRead(self) -> None:
        """Take what there is."""
        try:
            data = os.read(0, LINE_BYTES)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(lines)
        if not data:
            self._lines.append(self._rest)
            self._end_of_input()
        elif len(self._rest) > LINE_BYTES:
            self._fail(f"a line is longer than {LINE_BYTES} bytes; the rest of the input is not read")
            self._end_of_input()
        self._send_on()

    def connectionLost(self, reason: Failure) -> None:
        """Reading failed."""
        self._fail(f"cannot read standard input: {reason.getErrorMessage()}")
        self._end_of_input()
        self._send_on()

    def _end_of_input(self) -> None:
        self._ended = True
        self._reactor.removeReader(self)
        self._limit = self._reactor.callLater(LAST_SECONDS, self._give_up)

    # Sending

    def _send_on(self) -> None:
        """Send what was read, AHEAD lines at a time; read on when all of it is on its way."""
        while self._lines and len(self._client.unsent) < AHEAD:
            text = self._lines.popleft().decode(errors="replace").rstrip("\r")
            if text.strip():
                Deferred.fromCoroutine(self._send(text))
        if self._lines:
            self._reactor.removeReader(self)
        elif not self._ended:
            self._reactor.addReader(self)
        self._check()

    async def _send(self, text: str) -> None:
        try:
            ok = await self._client.send(self._room, text)
            self._acknowledged = ok.seq
        except MercuryError as error:
            self._fail(f"not sent: {error.reason}")
        self._send_on()

    # The end

    def _check(self) -> None:
        """Finish when all is sent and all was printed."""
        all_sent = self._ended and not self._left()
        if all_sent and self._caught_up and self._client.seen.get(self._room, 0) >= self._acknowledged:
            self._finish()

    def _give_up(self) -> None:
        self._fail(
            f"gave up {LAST_SECONDS:.0f} s after the end of the input; {self._left()} lines are not acknowledged"
        )
        self._finish()

    def _left(self) -> int:
        return len(self._lines) + len(self._client.unsent)

    def _finish(self) -> None:
        self._reactor.removeReader(self)
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
        if not self._done.called:
            self._done.callback(self._code)

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except OSError:  # nobody reads any more, as in `mercury-client ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            self._finish()

    def _fail(self, what: str) -> None:
        self._code = 1
        self._note(what)

    def _note(self, text: str) -> None:
        print(f"mercury-client: {safe(text)}", file=sys.stderr)
