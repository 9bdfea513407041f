"""The command `mercury-admin`: backups.

    mercury-admin backup FILE ...   copies a SQLite store while the node runs
    mercury-admin restore ...       after a backup was put back, before a node starts on it

Both take the server's own settings. docs/stores.md says how each store is backed up and put back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.task import react

from mercury.cli import common
from mercury.errors import MercuryError
from mercury.node import build
from mercury.settings.schema import Config, storage_type
from mercury.settings.types import ConfigError

COMMANDS: Final = {
    "backup FILE [FLAGS]": "Copy a SQLite store, as it is at this moment, to FILE, which must not exist yet. The node "
    "may keep running.",
    "restore [FLAGS]": "Run this after you have put a backup back, before any node starts on it. All nodes must be "
    "stopped. Clients that reconnect then start from scratch, and no id is used twice.",
}
MORE: Final = "FLAGS are those of mercury: give the ones that select the store. See docs/stores.md."


def main(argv: Sequence[str] | None = None) -> None:
    """Run it; raises SystemExit with its exit code: 0 if all is well, 1 if not, 2 if it was called wrongly."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--help"], ["-h"]):
        print(_usage())
    elif words[:1] == ["backup"] and len(words) > 1 and not words[1].startswith("-"):
        backup(common.config_of("mercury-admin backup", words[2:]), Path(words[1]))
    elif words[:1] == ["restore"]:
        react(restore, (common.config_of("mercury-admin restore", words[1:]),))
    else:
        print(_usage(), file=sys.stderr)
        sys.exit(2)


def _usage() -> str:
    return f"usage: {common.usage('mercury-admin', COMMANDS, MORE)}".rstrip()


def backup(config: Config, target: Path) -> None:
    """Copy a SQLite store, and say so. Raises SystemExit if that fails."""
    from mercury.stores.sqlite.backup import back_up

    try:
        kind, path = storage_type(config), config.sqlite.path
        if kind != "sqlite":
            raise ConfigError(f"the store is {kind}, not sqlite; see docs/stores.md for how to back it up")
        size = back_up(path, target)
    except ConfigError as error:
        common.report("mercury-admin backup", str(error))
        sys.exit(2)
    except MercuryError as error:
        common.report("mercury-admin backup", error.reason)
        sys.exit(1)
    print(f"{target} is a copy of the database {path}: {size:,} bytes. It passed SQLite's integrity check")


async def restore(reactor: Any, config: Config) -> None:
    """Have the store begin anew, if nobody uses it, and say so. Raises SystemExit if that fails."""
    common.prepare(reactor)
    try:
        for line in await _restore(reactor, config):
            print(line)
    except ConfigError as error:
        common.report("mercury-admin restore", str(error))
        raise SystemExit(2) from None
    except MercuryError as error:
        common.report("mercury-admin restore", error.reason)
        raise SystemExit(1) from None


async def _restore(reactor: Any, config: Config) -> list[str]:
    """What to tell the operator, when it is done. ConfigError or MercuryError if it is not."""
    kind = storage_type(config)
    if kind == "memory":
        raise ConfigError("the memory store (storage.type) cannot be restored: it keeps nothing")
    if kind == "sqlite" and not os.path.exists(config.sqlite.path):  # noqa: ASYNC240 - nobody waits for us
        raise ConfigError(f"the database {config.sqlite.path} does not exist: put the backup there first")
    store = build.make_store(config)
    await _check_unused(reactor, config)
    await store.open()
    try:
        before = store.epoch
        first = await store.begin_anew()
        is_empty = not await store.rooms("", 1)
    finally:
        await store.close()
    return [
        f"The store has the new epoch {store.epoch} instead of {before}: clients that reconnect start from scratch.",
        f"Ids continue at {first}, so that no id from after the backup is used again.",
        "The store has no rooms: did you put the backup into this store?" if is_empty else "Start the nodes now.",
    ]


async def _check_unused(reactor: Any, config: Config) -> None:
    """MercuryError if a node uses the store. Of SQLite that is seen by opening it: there is a lock."""
    kind = storage_type(config)
    if kind == "mysql":
        from mercury.bus import mysql as bus_mysql

        mysql = build.mysql_server(config.mysql)
        if users := await bus_mysql.users(reactor, mysql):
            raise MercuryError("unavailable", f"{mysql} is used by {', '.join(users)}: stop all nodes first")
    if kind in ("mysql", "redis") and (config.redis.host or config.redis.sentinels):
        from mercury.bus import redis as bus_redis

        redis = build.redis_server(config.redis)
        if count := await bus_redis.users(reactor, redis):
            raise MercuryError(
                "unavailable",
                f"nodes listen on {redis} ({count}): stop all nodes first. Redis forgets a node whose "
                "machine has died after tcp-keepalive (5 minutes), or at once after CLIENT KILL TYPE pubsub",
            )
