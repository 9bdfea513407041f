"""The client in a terminal: messages scroll by above the line where one types (prompt_toolkit).

A line that was typed leaves the prompt and comes back from the server as a message. Until then, if that takes long or
there is no connection, it stands in grey above the prompt.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.patch_stdout import patch_stdout
from twisted.internet.defer import Deferred

from mercury.client.connection import Client, ClientEvent, Reconnecting
from mercury.client.text import Writer, safe
from mercury.domain.events import Hello
from mercury.errors import MercuryError

GREY: Final = "ansibrightblack"
PENDING_LINES: Final = 5
SLOW_SECONDS: Final = 0.5  # an acknowledgement that takes longer is shown to be missing
LAST_SECONDS: Final = 3.0  # that the end waits for those that are missing


class Terminal:
    """One person at one terminal in one room."""

    def __init__(self, client: Client, room: str, writer: Writer) -> None:
        self._client = client
        self._room = room
        self._writer = writer
        self._last_reason = ""
        self._input: asyncio.Task[None] | None = None
        self._refusal: str | None = None

    def on_event(self, event: ClientEvent) -> None:
        """Show it. A failed attempt to reconnect is shown if its reason is another one than before."""
        line = self._writer.line(event)
        if isinstance(event, Hello):
            self._last_reason = ""
        elif isinstance(event, Reconnecting):
            if event.reason == self._last_reason:
                return
            if self._last_reason:
                line = self._writer.note(event.reason)
            self._last_reason = event.reason
        if line is not None:
            print(line)

    def end(self, refusal: str | None = None) -> None:
        """Stop; with a reason if the server refuses us."""
        self._refusal = refusal
        if self._input is not None:
            self._input.cancel()

    async def run(self) -> int:
        """Chat until Ctrl-D, Ctrl-C, end() or the terminal's own end; returns the exit code."""
        self._input = asyncio.ensure_future(self._type())
        await Deferred.fromFuture(self._input)
        if self._refusal is not None:
            print(f"mercury-client: {safe(self._refusal)}", file=sys.stderr)
            return 1
        await self._acknowledged()
        for unsent in self._client.unsent:
            print(f"mercury-client: not sent: {safe(unsent.command.text)}", file=sys.stderr)
        return 0

    async def _type(self) -> None:
        session: PromptSession[str] = PromptSession(
            self._prompt,
            rprompt=lambda: "" if self._client.connected else [(GREY, "offline")],
            erase_when_done=True,
            refresh_interval=SLOW_SECONDS,
        )
        with suppress(OSError), patch_stdout(raw=True):  # the terminal may be gone
            while True:
                try:
                    text = await session.prompt_async()
                except (EOFError, KeyboardInterrupt, asyncio.CancelledError):
                    return
                if text.strip():
                    Deferred.fromCoroutine(self._send(text))

    def _prompt(self) -> StyleAndTextTuples:
        client, now = self._client, self._client.clock.seconds()
        late = [u for u in client.unsent if not client.connected or now - u.typed >= SLOW_SECONDS]
        shown: StyleAndTextTuples = [(GREY, f"   ... {safe(u.command.text)}\n") for u in late[:PENDING_LINES]]
        if len(late) > PENDING_LINES:
            shown.append((GREY, f"   ... and {len(late) - PENDING_LINES} more\n"))
        return [*shown, ("", "send> ")]

    async def _send(self, text: str) -> None:
        # Bytes that are no UTF-8 come from a terminal as lone surrogates, which no frame can hold.
        text = text.encode(errors="replace").decode()
        try:
            await self._client.send(self._room, text)
        except MercuryError as error:
            print(self._writer.note(f"not sent: {text}: {error.reason}"))

    async def _acknowledged(self) -> None:
        """Wait for the last acknowledgement, unless nobody is there to give it."""
        if self._client.connected and self._client.unsent:
            last: Deferred[None] = Deferred()
            self._client.unsent[-1].answer.addBoth(lambda _: last.callback(None))
            with suppress(TimeoutError):
                await last.addTimeout(LAST_SECONDS, self._client.clock)
