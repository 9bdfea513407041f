"""A state machine that does to a node all that clients, networks and operators do, and compares what everybody saw with
the log: G3 (one order, no holes), G4 (nothing missed), G5 (nothing twice, one answer a cid) and G7 (members only).

The node is a real one on SQLite in this process, the clients speak over TCP. A run is the same every time; more, and
other ones:  make test ARGS="tests/promises/test_model.py --hypothesis-profile=long"
"""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from mercury.settings.limits import Limits
from tests.support.recorder import Ask, Connection, Record, Seen
from tests.support.recording_clients import CidClient, Client, FluentClient, V1Client, V2Client, until
from tests.support.scripted_node import ScriptedNode
from tests.support.wamp_client import WampCborClient, WampClient, WampMsgpackClient
from tests.support.wamp_words import INBOX

pytestmark = pytest.mark.slow

T = TypeVar("T")

ROOMS = ("red", "blue")
DEVICES = range(5)
devices = st.sampled_from(DEVICES)
rooms = st.sampled_from(ROOMS)
members = st.sampled_from(("ann", "bob", "cyd"))
fluent = st.sampled_from((V2Client, WampClient, WampMsgpackClient, WampCborClient))
topics = st.sampled_from(((), (INBOX,), *((f"mercury.room.{rid}",) for rid in ROOMS)))

Log = dict[int, Seen]


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run it while the reactor turns."""
    result: T = pytest_twisted.blockon(Deferred.fromCoroutine(work))
    return result


class Promises(RuleBasedStateMachine):
    """The model: who is in which room since when, what was asked under which cid. The log itself is the rest."""

    @initialize(kinds=st.tuples(fluent, fluent, fluent))
    def begin(self, kinds: tuple[type[Client], ...]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="mercury-promises-")
        self.node = ScriptedNode(
            Path(self.folder.name, "mercury.sqlite"), Limits(ping_seconds=3600, drain_seconds=3600)
        )
        self.record = Record()
        self.joined: dict[tuple[str, str], int] = {}  # (room, member) -> the seq of the join; missing: not in
        self.cids: dict[tuple[str, str, str], Ask] = {}
        self.memberships: dict[int, dict[str, int]] = {}  # connection -> where its member had joined when it was made
        self.before: dict[int, dict[str, int]] = {}  # connection -> what its device had seen before
        self.choosy: set[int] = set()  # connections that did not hear of all rooms all the time
        wait(self._begin(*kinds))

    async def _begin(self, *kinds: type[Client]) -> None:
        where = await self.node.start()
        tokens = {mid: (await self.node.chat.tokens.make(mid))[0] for mid in ("ann", "bob", "cyd")}

        def device(kind: type[Client], mid: str, name: str = "") -> Client:
            return kind(self.record, where, mid, tokens[mid], name)

        self.clients: list[Client] = [
            device(V1Client, "ann", "old"),
            device(kinds[0], "ann", "phone"),
            device(kinds[1], "bob"),
            device(V1Client, "cyd", "old"),
            device(kinds[2], "cyd"),
        ]
        await self._join("red", "ann")
        await self._join("red", "bob")
        await self._join("blue", "cyd")
        for client in self.clients[:4]:
            await self._connect(client)

    async def _join(self, rid: str, mid: str) -> None:
        if await self.node.chat.rooms.join(rid, [mid]):
            assert (rid, mid) not in self.joined
            self.joined[rid, mid] = next(
                p.joined for p in await self.node.chat.store.memberships(mid, "") if p.rid == rid
            )
        assert (rid, mid) in self.joined

    async def _connect(self, client: Client, **how: Any) -> None:
        before = dict(client.has)
        await client.connect(**how)
        if isinstance(client, WampClient) and client.topics != (INBOX,):
            self.choosy.add(id(client.connection))
        self.before[id(client.connection)] = before
        self.memberships[id(client.connection)] = {
            r: seq for (r, mid), seq in self.joined.items() if mid == client.member
        }

    def speakers(self) -> list[Client]:
        return [client for client in self.clients if client.open and client.reading]

    def speaker(self, number: int) -> Client | None:
        client = self.clients[number]
        return client if client.open and client.reading else None

    # Speaking

    @rule(number=devices, rid=rooms, size=st.sampled_from((0, 200, 9000)))
    def say(self, number: int, rid: str, size: int) -> None:
        """Whoever is in the room gets ok, whoever is not forbidden."""
        if client := self.speaker(number):
            ask = client.say(rid, client.text("." * size))
            wait(self._answered([ask]))

    @rule(number=devices, rid=rooms, cid=st.sampled_from("xy"), text=st.sampled_from(("one", "two")))
    def say_with_cid(self, number: int, rid: str, cid: str, text: str) -> None:
        """The first text under a cid counts; repeated it gets the same answer, another text gets conflict."""
        client = self.speaker(number)
        if not isinstance(client, FluentClient):
            return
        text = f"{client.member}-{rid}-{cid}-{text}"
        first = self.cids.get((client.member, rid, cid))
        if first is None:
            ask = client.say(rid, text, cid)
            wait(self._answered([ask]))
            if ask.outcome == "ok":
                assert not ask.answers[0][2]
                self.cids[client.member, rid, cid] = ask
            return
        again = Ask(client.name, client.member, rid, text, cid)  # not in the record: it asks for nothing new
        client.repeat(again)
        wait(until(lambda: again.answers or again.code, "an answer"))
        if (rid, client.member) not in self.joined:
            assert again.code == "forbidden"
        elif text != first.text:
            assert again.code == "conflict"
        else:
            assert again.answers == [(*first.answers[0][:2], True)]

    @rule(count=st.integers(2, 12), rid=rooms, size=st.sampled_from((0, 3000)))
    def burst(self, count: int, rid: str, size: int) -> None:
        """Everybody speaks at once, without waiting for answers."""
        wait(self._answered(self._burst(count, rid, size)))

    def _burst(self, count: int, rid: str, size: int) -> list[Ask]:
        return [
            client.say(rid, client.text("." * size), f"burst-{len(self.record.asks)}")
            for _ in range(count)
            for client in self.speakers()
            if (rid, client.member) in self.joined
        ]

    async def _answered(self, asks: list[Ask]) -> None:
        await until(lambda: all(ask.outcome != "info" for ask in asks), "an answer")
        for ask in asks:
            expected = ("ok", "") if (ask.rid, ask.mid) in self.joined else ("fail", "forbidden")
            assert (ask.outcome, ask.code) == expected

    # Coming and going

    @rule(number=devices, abruptly=st.booleans())
    def disconnect(self, number: int, abruptly: bool) -> None:
        """A device goes away."""
        client = self.clients[number]
        if abruptly or not client.reading:
            client.abort()
        else:
            wait(client.close())

    @rule(number=devices, resume=st.booleans())
    def reconnect(self, number: int, resume: bool) -> None:
        """It comes back, perhaps while the server believes that it is still there."""
        client = self.clients[number]
        client.abort()
        wait(self._connect(client, resume=resume))

    @rule(number=devices)
    def stop_reading(self, number: int) -> None:
        """A device leaves what it is sent in its socket."""
        self.clients[number].stop_reading()

    @rule(number=devices)
    def read_again(self, number: int) -> None:
        """It takes it out."""
        self.clients[number].read_again()

    @rule(number=devices, rid=rooms)
    def acknowledge(self, number: int, rid: str) -> None:
        """A device says what it has, instead of leaving that to the pongs."""
        client = self.speaker(number)
        if isinstance(client, FluentClient) and (rid, client.member) in self.joined and client.connection.seen.get(rid):
            answer = wait(client.ask(type="ack", rid=rid, seq=client.has[rid]))
            assert answer["type"] == "ok"

    @rule(number=devices, chosen=topics)
    def listen_to(self, number: int, chosen: tuple[str, ...]) -> None:
        """A WAMP client goes over to other topics, and keeps its place in all rooms."""
        client = self.speaker(number)
        if isinstance(client, WampClient):
            wait(self._listen_to(client, chosen))

    async def _listen_to(self, client: WampClient, chosen: tuple[str, ...]) -> None:
        if chosen != (INBOX,):
            self.choosy.add(id(client.connection))
        client.topics = chosen  # when it comes back, too
        for topic in set(client.words.topics.values()).difference(chosen):
            assert (await client.ask(type="unsubscribe", topic=topic))["type"] == "ok"
        for topic in set(chosen).difference(client.words.topics.values()):
            answer = await client.ask(type="subscribe", topic=topic)
            allowed = topic == INBOX or (topic.removeprefix("mercury.room."), client.member) in self.joined
            assert (answer["type"], answer.get("code")) == (
                ("ok", None) if allowed else ("error", "wamp.error.not_authorized")
            )

    @rule(rid=rooms, mid=members)
    def join(self, rid: str, mid: str) -> None:
        """The application puts a member into a room."""
        wait(self._join(rid, mid))

    @rule(rid=rooms, mid=members)
    def put_out(self, rid: str, mid: str) -> None:
        """The application takes a member out of a room."""
        left = wait(self.node.chat.rooms.leave(rid, [mid]))
        assert left == ([mid] if self.joined.pop((rid, mid), None) else [])

    @rule(number=devices, rid=rooms)
    def leave(self, number: int, rid: str) -> None:
        """A member leaves, by a frame."""
        client = self.speaker(number)
        if isinstance(client, FluentClient):
            answer = wait(client.ask(type="leave", rid=rid))
            inside = self.joined.pop((rid, client.member), None)
            assert (answer["type"], answer.get("code")) == (("ok", None) if inside else ("error", "forbidden"))

    # The node

    @rule(gently=st.booleans(), count=st.integers(0, 5), rid=rooms, turns=st.integers(0, 8))
    def restart(self, gently: bool, count: int, rid: str, turns: int) -> None:
        """The node ends, perhaps in the middle of a burst, and is there again; who can repeat the unanswered."""
        wait(self._restart(gently, self._burst(count, rid, 100), turns))

    async def _restart(self, gently: bool, asks: list[Ask], turns: int) -> None:
        for _ in range(turns):
            await deferLater(reactor, 0)
        was_open = [client for client in self.clients if client.open]
        await (self.node.stop() if gently else self.node.crash())
        for client in was_open:
            client.abort()
        await self.node.start()
        for client in was_open:
            await self._connect(client)
            if isinstance(client, CidClient):
                unanswered, client.waiting = list(client.waiting.values()), {}
                for ask in unanswered:
                    client.repeat(ask)
                await self._answered(unanswered)
            elif isinstance(client, V1Client):
                client.waiting.clear()

    # The comparison

    @precondition(lambda self: any(client.open for client in self.clients))
    @rule()
    def settle(self) -> None:
        """When all have read on, everybody has seen what they should, and nothing else."""
        wait(self._settle())

    async def _settle(self) -> None:
        logs = {rid: await self._log(rid) for rid in ROOMS}
        for client in self.clients:
            if client.open:
                client.read_again()
            if client.open and isinstance(client, WampClient):
                await self._listen_to(client, (INBOX,))
        for client in self.clients:
            for rid in ROOMS:
                if client.open and (rid, client.member) in self.joined:
                    await self._caught_up(client, rid, logs[rid])
        for device in self.record.devices:
            for connection in self.record.of(device):
                for rid, run in connection.seen.items():
                    self._check(connection, rid, run, logs[rid])
        for ask in self.record.asks:
            for seq, id, _ in ask.answers:
                entry = logs[ask.rid][seq]
                assert (entry.mid, entry.text, entry.id) == (ask.mid, ask.text, id)
        self._nothing_else(logs)

    async def _log(self, rid: str) -> Log:
        log: Log = {}
        while (page := await self.node.chat.store.read(rid, len(log), 500)).entries:
            for e in page.entries:
                id = e.id if e.kind == "message" else 0
                log[e.seq] = Seen(rid, e.seq, id, e.kind, e.mid, e.text, e.members)
        assert list(log) == list(range(1, page.head + 1))
        return log

    async def _caught_up(self, client: Client, rid: str, log: Log) -> None:
        start = self.joined[rid, client.member] - (1 if client.everything else 0)
        head = max((seq for seq in log if seq > start and _shown(client.everything, log[seq])), default=0)
        await until(lambda: client.has.get(rid, 0) >= head, lambda: f"seeing {rid}/{head}: {client.name} {client.has}")

    def _nothing_else(self, logs: dict[str, Log]) -> None:
        texts = [(e.rid, e.mid, e.text) for log in logs.values() for e in log.values() if e.kind == "message"]
        asked = {(ask.rid, ask.mid, ask.text): ask.outcome for ask in self.record.asks}
        assert len(texts) == len(set(texts))
        assert all(asked[text] != "fail" for text in texts)

    def _check(self, connection: Connection, rid: str, run: list[Seen], log: Log) -> None:
        """What one connection was shown of one room, against the log."""
        mid = self.record.devices[connection.device]
        comings = [seq for seq, e in log.items() if e.kind == "joined" and mid in e.members]
        goings = [seq for seq, e in log.items() if e.kind == "left" and mid in e.members]
        inside = self.memberships[id(connection)].get(rid)  # the join that held when the connection was made
        prev: Seen | None = None
        for seen in run:
            assert seen == log[seen.seq]
            own_left = seen.kind == "left" and mid in seen.members
            join = max((seq for seq in comings if seq <= seen.seq), default=0)
            resumed = connection.resumed is not None and rid in connection.resumed and inside is not None
            if not (resumed and inside is not None and seen.seq < inside):  # a member may ask for what was before
                assert join, "seen without ever having been in"
                assert not any(join < going < seen.seq for going in goings), "seen while not in the room"
            choosy = id(connection) in self.choosy
            if prev is not None:
                assert seen.seq > prev.seq
                last = prev.seq
                if prev.kind == "left" and mid in prev.members:
                    last = max(last, join - 1)
                elif (choosy or not connection.everything) and any(prev.seq < going < seen.seq for going in goings):
                    last = join - 1 if choosy else join
            elif resumed:
                assert connection.resumed is not None
                last = connection.resumed[rid]
                if choosy and any(last < going < seen.seq for going in goings):
                    last = join - 1
                assert own_left or seen.seq == last + 1
            elif inside is None:
                last = join - 1  # it came in while connected
            else:
                last = min(max(self.before[id(connection)].get(rid, 0), join - 1), seen.seq - 1)
            if not own_left:
                missed = [seq for seq in range(last + 1, seen.seq) if _shown(connection.everything, log[seq])]
                assert not missed, f"{connection.device} saw {seen.seq} after {last} and missed {missed}"
            prev = seen

    def teardown(self) -> None:
        if hasattr(self, "clients"):
            with self.folder:
                wait(self._end())

    async def _end(self) -> None:
        try:
            for client in self.clients:
                if not client.open:
                    await self._connect(client)
            await self._settle()
            for client in self.clients:
                for rid in ROOMS:
                    if (rid, client.member) in self.joined:
                        log = await self._log(rid)
                        assert await client.history(rid, 7) == [e for e in log.values() if e.kind == "message"]
        finally:
            for client in self.clients:
                client.abort()
            await self.node.stop()


def _shown(everything: bool, entry: Seen) -> bool:
    return everything or entry.kind == "message"


TestPromises = Promises.TestCase
TestPromises.settings = settings(stateful_step_count=30, derandomize=settings.get_current_profile_name() == "mercury")
