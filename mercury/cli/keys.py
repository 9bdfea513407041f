"""The command `mercury-keys`: makes the keys that texts are encrypted with at rest, encrypts anew what is stored, and
makes keys for the REST API.

    mercury-keys new FILE       makes a key, and puts it first into the file of --crypto.keys
    mercury-keys api new NAME   makes a key for the REST API, and prints what to configure
    mercury-keys rewrite ...    with the server's own settings: brings all that is stored to the first key

docs/encryption.md says when to do which.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater, react

from mercury.cli import common
from mercury.domain.model import Resealed
from mercury.errors import MercuryError
from mercury.interfaces import IStore
from mercury.node import build
from mercury.rest import api_keys
from mercury.settings import types
from mercury.settings.schema import Config, storage_type
from mercury.settings.types import ConfigError
from mercury.stores.sealing import KEY_BYTES, KeyFileError, parse_keys, read_text

COMMANDS: Final = {
    "new [--last] FILE": "Make a key and put it first in FILE: after the next start, texts are encrypted with it. With "
    "--last, put it last: then it only decrypts what other nodes encrypt with it.",
    "rewrite [FLAGS]": "Encrypt everything in the store with the first key, while the nodes run. FLAGS are those of "
    "mercury: give the ones that select the store, and --crypto.keys.",
    "api new NAME": "Make a key for the REST API. NAME says who uses it. The key is printed once; configure its hash.",
}
MORE: Final = "See docs/encryption.md, and docs/rest.md for API keys."

PAGE: Final = 500  # rooms that are asked for at once
SHARE: Final = 1.0  # how long to pause after a step, as a share of the time that it took
REPORT_EVERY: Final = 1.0  # seconds between lines that say how far it is


def main(argv: Sequence[str] | None = None) -> None:
    """Run it; raises SystemExit with its exit code: 0 if all is well, 1 if not, 2 if it was called wrongly."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["rewrite"]:
        react(rewrite, (common.config_of("mercury-keys rewrite", words[1:]),))
    if words[:2] == ["api", "new"] and len(words) == 3:
        print(new_api_key(words[2]))
        return
    parser = argparse.ArgumentParser(
        prog="mercury-keys", usage=common.usage("mercury-keys", COMMANDS, MORE), allow_abbrev=False
    )
    parser.format_help = parser.format_usage  # type: ignore[method-assign]
    parser.add_argument("command", choices=["new", "rewrite"])
    parser.add_argument("--last", action="store_true")
    parser.add_argument("file", type=Path)
    asked = parser.parse_args(words)
    try:
        print(new_key(asked.file, last=asked.last))
    except (KeyFileError, OSError) as error:
        print(f"mercury-keys new: {error}", file=sys.stderr)
        sys.exit(1)


# new


def new_key(path: Path, *, last: bool = False) -> str:
    """Put a new key into a file, which is made if need be, before or behind the others; what to do next.

    The file is replaced at once, by one of the same owner and mode; a new one is its owner's only. May raise OSError.
    """
    path = Path(os.path.realpath(path))
    before = read_text(path) if path.exists() else ""
    others = parse_keys(before, str(path))
    id = f"{datetime.now(UTC):%Y%m%d}-{os.urandom(2).hex()}"
    line = f"{id}:{b64encode(os.urandom(KEY_BYTES)).decode()}\n"
    if before and not before.endswith("\n"):
        before += "\n"
    _replace(path, before + line if last else line + before)
    if not others:
        return (
            f"{path} now holds the key {id}. Keep a copy away from the messages: without it they are lost.\n"
            f"Start every node with --crypto.keys={path}. If there are messages already, then run: mercury-keys rewrite"
        )
    if last:
        return (
            f"{path} now has the key {id} at its end, for decrypting. Restart every node with this file. Then move\n"
            "the key's line to the top, restart every node again, and run: mercury-keys rewrite"
        )
    return (
        f"{path} now has the key {id} at its top. Restart Mercury, then run: mercury-keys rewrite\n"
        "With several nodes, every node must be able to decrypt with the key before any node encrypts with it. In\n"
        "that case, remove this line again and use mercury-keys new --last."
    )


def new_api_key(name: str) -> str:
    """A new key for the REST API, and what to do with it. Raises SystemExit if it cannot have that name."""
    key, kept = api_keys.new_key()
    try:
        types.api_keys(f"{name}:{kept}")
    except ValueError:
        print("mercury-keys api new: a name must not contain a colon or a comma", file=sys.stderr)
        sys.exit(2)
    return (
        f"The key of {name}, shown only this once: {key}\n"
        f"Send it with every request:  Authorization: Bearer {key[:4]}...\n"
        f"Add this to --server.api.keys, after a comma if there are others, and restart Mercury:\n{name}:{kept}"
    )


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole, or as it was."""
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # of mode 600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            if path.exists():
                was = path.stat()
                os.fchmod(handle, stat.S_IMODE(was.st_mode))
                if (was.st_uid, was.st_gid) != (os.getuid(), os.getgid()):
                    os.fchown(handle, was.st_uid, was.st_gid)
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


# rewrite


async def rewrite(reactor: Any, config: Config) -> None:
    """Encrypt the whole store again while nodes use it, and report progress. Raises SystemExit."""
    common.prepare(reactor)
    try:
        if not config.crypto.keys:
            raise ConfigError("set --crypto.keys: there is no key to encrypt with")
        if storage_type(config) == "memory":
            raise ConfigError("the memory store (storage.type) is inside the node: there is nothing to rewrite")
        store = build.make_store(config, beside_node=True)
    except ConfigError as error:
        _report(str(error))
        raise SystemExit(2) from None
    work = Rewriting(reactor, store)
    running = Deferred.fromCoroutine(work.run())
    ended: Deferred[None] = Deferred()

    def interrupted() -> Deferred[None]:
        running.cancel()
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    try:
        code = await running
    except CancelledError:
        _report(f"interrupted. {work.progress()}. Run it again to continue")
        code = 1
    ended.callback(None)
    raise SystemExit(code)


class Rewriting:
    """One run over all rooms. After each step it pauses for as long as that took, to leave the store to the nodes."""

    def __init__(self, reactor: Any, store: IStore) -> None:
        self._reactor = reactor
        self._store = store
        self._total = self._rooms = self._read = self._sealed = self._lost = 0
        self._step_started = self._reported = 0.0

    async def run(self) -> int:
        """The exit code."""
        try:
            await self._store.open()
        except MercuryError as error:
            _report(error.reason)
            return 1
        try:
            await self._all_rooms()
        except MercuryError as error:
            _report(f"{error.reason}. {self.progress()}. Run it again to continue")
            return 1
        finally:
            await self._store.close()
        if self._lost:
            _report("Some messages cannot be read and are unchanged. Add the keys named above and run it again")
            return 1
        _report("All messages are encrypted with the first key. Copies, backups and deleted data are not changed")
        return 0

    def progress(self) -> str:
        """How far it is."""
        return (
            f"rooms: {self._rooms:,} of {self._total:,}; messages: {self._read:,}, encrypted: {self._sealed:,}, "
            f"unreadable: {self._lost:,}"
        )

    async def _all_rooms(self) -> None:
        self._total = len([rid async for rid in self._names()])
        async for rid in self._names():
            self._step_started = time.monotonic()
            await self._store.reseal(rid, self._step_done)
            self._rooms += 1
        _report(self.progress())

    async def _names(self) -> AsyncIterator[str]:
        after = ""
        while rooms := await self._store.rooms(after, PAGE):
            for room in rooms:
                yield room.rid
            after = rooms[-1].rid

    def _step_done(self, step: Resealed) -> Deferred[None]:
        self._read += step.looked
        self._sealed += step.sealed
        self._lost += step.lost
        now = time.monotonic()
        if now > self._reported + REPORT_EVERY:
            self._reported = now
            _report(self.progress())
        took = now - self._step_started
        return deferLater(self._reactor, SHARE * took).addCallback(self._start_step)

    def _start_step(self, _: object) -> None:
        self._step_started = time.monotonic()


_report = partial(common.report, "mercury-keys")
