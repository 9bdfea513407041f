"""Which statements the calls that `make bench ARGS="scale"` times make, how much these read, and how that is done.

Nothing of it is guessed: a node makes the calls, and the database, or its driver, tells which statements came and how
much they read. Each is then explained. tests/stores/test_plans.py holds plans and counts to what is promised.

Run as a program it prints, as Markdown, what is found in a store that has the size SIZES[STEP]:

    python -m bench.scale_plans STEP FLAG...
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from bench.processes import ROOT
from bench.scale_client import MEASURES, NAMES, PAGE, Subject, subjects
from bench.scale_databases import Call, Database, MariaDb, Redis, Sqlite
from bench.scale_fill import SIZES, secret, settings_of
from mercury.domain import commands
from mercury.node.build import make_store

sys.path.append(str(ROOT / "tests"))  # where the node is that tests put together as well
from tests.support.in_process_node import Node, SocketlessDevice, until

T = TypeVar("T")

#: What is done, in the words of the measurements and one more.
CALLS: Final = {**MEASURES, "ack": "acknowledge what was received"}


class Quiet(SocketlessDevice):
    """A client that answers no pings, so that nothing is stored about what it has received but at its command."""

    def ping(self, payload: bytes) -> None:
        """Leave it unanswered."""

    async def live(self, rooms: int) -> None:
        """Wait until it is live in so many rooms."""
        await until(lambda: len(self.said("caught_up")) == rooms)

    async def ask(self, command: commands.Command) -> dict[str, Any]:
        """Give the session a command; the answer."""
        before = len(self.heard)
        self.session.receive(command)
        await until(lambda: any(event["type"] in ("ok", "error") for event in self.heard[before:]))
        (answer,) = [event for event in self.heard[before:] if event["type"] in ("ok", "error")]
        if answer["type"] == "error":
            raise RuntimeError(f"{command} was answered with {answer}")
        return answer


async def watch(node: Node, subject: Subject, database: Database) -> dict[str, Call]:
    """Make each of CALLS, and see what comes to the database by it."""
    seen: dict[str, Call] = {}

    async def note(name: str, work: Coroutine[Any, Any, T]) -> T:
        database.begin()
        result = await work
        seen[name] = database.end()
        return result

    async def connect() -> None:
        await client.login(secret(subject.mid), subject.mid)
        await client.live(subject.rooms)

    client = Quiet(node.chat)
    await note("live", connect())
    (hello,) = client.said("hello")
    heads = {room["rid"]: room["head"] for room in hello["rooms"]}
    entries, rids = subject.missed

    async def reconnect() -> None:
        late.session.await_connect()
        resume = commands.Resume(epoch=hello["epoch"], rooms={rid: heads[rid] - entries for rid in rids})
        late.session.receive(
            commands.Connect(token=secret(subject.mid), member=subject.mid, device=device, resume=resume)
        )
        await late.live(subject.rooms)

    late = Quiet(node.chat)
    device = f"late {sum(heads.values())}"  # one that was never there
    await note("missed", reconnect())

    async def acknowledge() -> None:
        await late.ask(commands.Ack(rid=rids[0], seq=heads[rids[0]]))
        await until(lambda: not node.chat.marks.pending(rids[0], subject.mid, device))

    await note("ack", acknowledge())
    rid, head = subject.rid, heads[subject.rid]
    await note("unread", client.ask(commands.Rooms()))
    await note("newest", client.ask(commands.History(rid=rid, limit=PAGE)))
    await note("middle", client.ask(commands.History(rid=rid, limit=PAGE, before=head // 2)))
    await note("oldest", client.ask(commands.History(rid=rid, limit=PAGE, after=0)))
    to, seq = subject.mark(50)  # above those that were measured
    await note("read", client.ask(commands.Read(rid=to, seq=seq)))
    await note("say", client.ask(commands.Send(rid=rid, text="here I am", cid=f"watched{head}")))
    await note("rest_rooms", node.ask("GET", f"/api/members/{subject.mid}/rooms"))
    await note("rest_members", node.ask("GET", f"/api/rooms/{rid}/members?limit={NAMES}"))
    await note("rest_messages", node.ask("GET", f"/api/rooms/{rid}/messages?limit={PAGE}"))
    return seen


def markdown(name: str, database: Database, seen: dict[str, Call]) -> str:
    """What each call does, and how each statement is done."""
    lines = [f"## {name}", "", f"{database.version()}. {database.counted}", ""]
    lines += ["| call | makes | reads |", "| --- | --- | ---: |"]
    statements: dict[str, str] = {}
    for key, title in CALLS.items():
        if key in seen:
            statements |= seen[key].statements
            lines.append(f"| {title} | {', '.join(seen[key].statements)} | {seen[key].read:,} |")
    plans = {name: database.plan(statement) for name, statement in statements.items()}
    if any(plans.values()):
        lines += ["", "| statement | how it is done |", "| --- | --- |"]
        lines += [f"| {name} | {'<br>'.join(plan)} |" for name, plan in plans.items() if plan]
    return "\n".join([*lines, ""])


@contextmanager
def database_of(flags: tuple[str, ...]) -> Iterator[tuple[str, Database]]:
    """The database that Mercury's flags name, watched."""
    config = settings_of(flags)
    if config.mysql.host:
        with MariaDb.at(config.mysql.port, config.mysql.database) as mariadb:
            yield "MariaDB", mariadb
    elif config.redis.host:
        yield "Redis", Redis(config.redis.port)
    else:
        sqlite = Sqlite(config.sqlite.path)
        with sqlite.telling():
            yield "SQLite", sqlite


async def main(step: int, flags: tuple[str, ...]) -> None:
    """Watch what is done in the room with the most messages, and print it."""
    with database_of(flags) as (name, database):
        async with Node(make_store(settings_of(flags))) as node:
            seen = await watch(node, subjects(SIZES[step], step)["messages"], database)
        print(markdown(name, database, seen))


if __name__ == "__main__":
    react(lambda _, step, *flags: Deferred.fromCoroutine(main(int(step), flags)), sys.argv[1:])
