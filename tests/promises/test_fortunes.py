"""Real text: every fortune of Debian, in English, German, Russian and Chinese, said by ten members in one room.

All ten see all of it in one order, byte for byte, and so do both protocols' history and REST.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.recorder import Record, Seen
from tests.support.recording_clients import Client, FluentClient, V1Client, V2Client, until
from tests.support.server_process import Server
from tests.support.wamp_client import WampCborClient, WampClient, WampMsgpackClient

pytestmark = pytest.mark.slow

FOLDER = Path("/usr/share/games/fortunes")
LANGUAGES = ("", "de", "ru", "chinese")
ROOM = "fortunes"
WINDOW = 100  # texts that a client has on the way
SEPARATOR = re.compile(r"^%\n", re.MULTILINE)


def fortunes() -> list[str]:
    """Every text, as it stands between lines of a single %."""
    texts: list[str] = []
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8"):
            parts = SEPARATOR.split(path.read_bytes().decode())
            texts += [part.removesuffix("\n") for part in parts if part.strip("\n")]
    return texts


FLUENT: Sequence[type[Client]] = V2Client, V2Client, WampClient, WampMsgpackClient, WampCborClient


class Reader:
    """A client that says its texts, WINDOW of them on the way, and hears everybody's."""

    def __init__(self, client: Client, texts: Sequence[str]) -> None:
        self.client = client
        self.texts = list(texts)
        self._unsaid = deque(texts)
        self._saw = client.saw
        client.saw = self.saw  # type: ignore[method-assign]

    def begin(self) -> None:
        """Say the first ones."""
        for _ in range(WINDOW):
            self._say()

    def saw(self, seen: Seen) -> None:
        """Heard one. When it is an own one, the next may go."""
        self._saw(seen)
        if seen.mid == self.client.member:
            self._say()

    def _say(self) -> None:
        if self._unsaid:
            kind = "send" if isinstance(self.client, FluentClient) else 1
            self.client.write(type=kind, rid=ROOM, text=self._unsaid.popleft())

    def heard(self) -> list[Seen]:
        """The messages, in the order in which they came."""
        return [seen for seen in self.client.connection.seen.get(ROOM, ()) if seen.kind == "message"]


@pytest.mark.skipif(
    not all((FOLDER / part).exists() for part in LANGUAGES),
    reason="Debian's fortunes are missing; `make test` installs them: fortunes fortunes-de fortunes-ru fortunes-zh",
)
@pytest_twisted.ensureDeferred
async def test_every_fortune_reaches_everybody(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Ten clients of all protocols; tens of thousands of texts."""
    texts = fortunes()
    assert len(texts) > 50_000
    limits = ("--limits.text-bytes=65536", "--limits.frame-bytes=1048576", "--limits.history-page=1000")
    server = Server(tmp_path, (free_port(), free_port()), *limits)
    readers: list[Reader] = []
    try:
        await server.start()
        members = [f"m{n}" for n in range(10)]
        await server.ok("POST", f"/api/rooms/{ROOM}/members", {"members": members})
        for n, member in enumerate(members):
            kind = V1Client if n % 2 else FLUENT[n // 2]
            client = kind(Record(), server.where, member, await server.token(member))
            readers.append(Reader(client, texts[n::10]))
            await client.connect()
        for reader in readers:
            reader.begin()
        for reader in readers:
            await hears(reader, len(texts))
        told = readers[0].heard()
        assert [seen.seq for seen in told] == list(range(2, len(texts) + 2))
        for reader in readers:
            assert reader.heard() == told
            assert [seen.text for seen in told if seen.mid == reader.client.member] == reader.texts
        assert await readers[0].client.history(ROOM, 1000) == told
        assert await readers[1].client.history(ROOM, 1000) == told
        assert await server.history(ROOM, 1000) == told
    finally:
        for reader in readers:
            reader.client.abort()
        if server.processes:
            await server.stop()


async def hears(reader: Reader, count: int) -> None:
    """Wait until a client has heard so many messages, as long as more come."""
    heard = -1
    while len(reader.heard()) < count:
        assert len(reader.heard()) > heard, f"{reader.client.name} hears no more: {reader.client.errors[:3]}"
        heard = len(reader.heard())
        await until(lambda: len(reader.heard()) >= min(heard + 5000, count), "hearing more")  # noqa: B023 - called at once
