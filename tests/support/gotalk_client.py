"""The test client of goTalk: two of its people, and the room that they have."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

from twisted.internet import defer
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.promises.cuts import WAIT, Http, Person, RefusalError
from tests.support.recorder import Ask, Record, Seen
from tests.support.recording_clients import CidClient, Where

reactor: Any = installed

AGAIN: Final = 0.2  # seconds until the next sync after one that was refused


class GotalkClient(CidClient):
    """One writes, the other one reads, by sync with ack; whoever else is in the room `rid` is read, too.

    It is the reader's device, and shows what was written by others, as goTalk does. However often it goes to another
    node, nothing may come to it again: all that it sees belongs to one connection in the record.
    """

    protocol = "goTalk"

    def __init__(self, record: Record, where: Where, writer: Person, reader: Person) -> None:
        super().__init__(record, where, f"gotalk:{reader.id}", "")
        self.writer = f"gotalk:{writer.id}"
        self.rid = f"gotalk:{min(writer.id, reader.id)}:{max(writer.id, reader.id)}"
        self._receiver = reader.id
        self._writer, self._reader = writer.fields, reader.fields
        self._last = 0  # the id of the last message that it has
        self._unsent: deque[Ask] = deque()
        self._open: dict[str, Http] = {}
        super().begin(None)

    @classmethod
    async def meet(cls, record: Record, where: Where, name: str) -> GotalkClient:
        """Two new people."""
        writer, reader = Person(f"{name} writes", acks=True), Person(f"{name} reads", acks=True)
        for person in (writer, reader):
            await person.enter(where.gotalk)
        return cls(record, where, writer, reader)

    async def connect(self, **how: Any) -> None:
        self.open = True
        self._unsent.clear()
        self._go(self._read(self._open), self._open)
        self._go(self._write(self._open), self._open)

    def abort(self) -> None:
        https, self._open, self.open = self._open, {}, False
        for http in https.values():
            http.transport.abortConnection()

    def _go(self, work: Coroutine[Any, Any, None], https: dict[str, Http]) -> None:
        def ended(failure: Failure) -> None:
            failure.trap(ConnectError, ConnectionClosed, defer.TimeoutError)
            if https is self._open:
                self.abort()

        Deferred.fromCoroutine(work).addErrback(ended)

    async def _post(self, https: dict[str, Http], path: str, fields: dict[str, Any]) -> Any:
        """Make a call on the connection that is kept for such."""
        if path not in https or not https[path].is_open:
            endpoint = TCP4ClientEndpoint(reactor, self.where.host, self.where.gotalk)
            https[path] = await connectProtocol(endpoint, Http())
        return await https[path].post(path, fields)

    async def _read(self, https: dict[str, Http]) -> None:
        while https is self._open:
            try:
                answer = await self._post(https, "/sync", {**self._reader, "ack": self._last, "wait": WAIT})
            except RefusalError:
                await deferLater(reactor, AGAIN)
                continue
            for message in answer if answer != "no message" else ():
                id = message["UserIdSend"]
                mid = f"gotalk:{id}" if id else message.get("From", "")
                self.saw(Seen(self.rid, message["Seq"], message["Id"], "message", mid, message["Content"]))
                self._last = message["Id"]

    async def _write(self, https: dict[str, Http]) -> None:
        while https is self._open:
            if not self._unsent:
                await deferLater(reactor, 0.01)
                continue
            ask = self._unsent.popleft()
            form = {**self._writer, "sendToId": self._receiver, "content": ask.text, "cid": ask.cid}
            try:
                assert await self._post(https, "/send", form) == "message received"
            except RefusalError as refusal:
                ask.refused(refusal.code)
            else:
                ask.outcome = "ok"
            self.waiting.pop(ask.text, None)

    def say(self, rid: str, text: str, cid: str | None = None) -> Ask:
        ask = super().say(rid, text, cid)
        ask.mid = self.writer
        return ask

    def repeat(self, ask: Ask) -> None:
        ask.tries += 1
        self.waiting[ask.text] = ask
        self._unsent.append(ask)

    def hear(self, frame: dict[str, Any]) -> None:
        raise AssertionError("goTalk's people have no connection")

    async def history(self, rid: str, page: int = 100) -> list[Seen]:
        raise AssertionError("goTalk's pages read history, and they have tests of their own")
