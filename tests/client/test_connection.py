"""The client against a server that does wrong: nothing typed is lost or doubled, nothing said missed or heard twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater

from mercury.client.connection import Backoff, Client, Reconnecting
from mercury.client.rest import ServerAddress
from mercury.domain.commands import History
from mercury.domain.events import CaughtUp, Error, Hello, HistoryOk, Left, Reset, SendOk
from mercury.errors import MercuryError
from tests.support.chatting_person import ROOM, Person, until
from tests.support.fake_server import CTIME, FakeServer, Session


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server that listens."""
    fake = FakeServer()
    fake.listen()
    yield fake
    for someone in fake.people:
        await someone.client.stop()
    await fake.close()


@pytest_twisted.async_yield_fixture
async def person(server: FakeServer) -> AsyncIterator[Person]:
    """Member 1, who starts to connect."""
    someone = Person(server)
    yield someone
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_it_joins_logs_in_by_a_first_frame_and_chats(server: FakeServer, person: Person) -> None:
    """The token stands in no URL, and the member is in the room before the connection is made."""
    await until(lambda: person.of(CaughtUp))
    person.say("hello")
    await until(lambda: person.answers)
    assert server.calls == [("/api/token", {"member": "1"}), ("/api/room/add", {"room": ROOM, "members": ["1"]})]
    assert server.urls == ["/ws/connect{}"]
    connect = server.frames[0]
    assert connect == {
        "type": "connect", "ref": None, "token": "token-1", "member": "1", "device": "d", "resume": None,
    }  # fmt: skip
    assert person.answers == [SendOk(ref=1, id=101, seq=1, duplicate=False)]
    assert person.heard() == ["hello"]


@pytest_twisted.ensureDeferred
async def test_a_text_whose_answer_was_lost_is_sent_again_with_its_cid_and_before_the_next(
    server: FakeServer, person: Person
) -> None:
    """It was committed; the client cannot know. One message, and the order in which they were typed."""
    await until(lambda: person.of(CaughtUp))

    def lose_the_first_answer(session: Session, frame: dict[str, Any]) -> bool:
        if frame["type"] != "send" or len(server.sent("send")) > 1:
            return False
        server.say(ROOM, "1", frame["text"], frame["cid"])
        session.drop()
        return True

    server.sabotage = lose_the_first_answer
    person.say("one")
    person.say("two")
    await until(lambda: len(person.answers) == 2)
    sends = server.sent("send")
    assert [send["text"] for send in sends] == ["one", "one", "two"]
    assert sends[0]["cid"] == sends[1]["cid"] != sends[2]["cid"]
    assert [answer.duplicate for answer in person.answers if isinstance(answer, SendOk)] == [True, False]
    assert server.texts() == person.heard() == ["one", "two"]


@pytest_twisted.ensureDeferred
async def test_it_resumes_after_what_it_has_seen_and_sends_what_was_typed_offline(
    server: FakeServer, person: Person
) -> None:
    """The server is away for a while; others speak before the client is back."""
    await until(lambda: person.of(CaughtUp))
    server.say(ROOM, "2", "before")
    await until(person.heard)
    await server.close()
    await until(lambda: person.of(Reconnecting))
    person.say("typed offline")
    person.say("and more")
    server.say(ROOM, "2", "missed")
    server.listen()
    await until(lambda: len(person.answers) == 2)
    assert server.sent("connect")[-1]["resume"] == {"epoch": "e1", "rooms": {ROOM: 1}}
    assert len(server.tokens) == 1
    assert server.texts() == person.heard() == ["before", "missed", "typed offline", "and more"]


@pytest_twisted.ensureDeferred
async def test_what_comes_twice_is_shown_once(server: FakeServer, person: Person) -> None:
    """An entry at or below the last seq seen of its room."""
    await until(lambda: person.of(CaughtUp))
    server.say(ROOM, "2", "once")
    server.sessions[0].tell(**server.rooms[ROOM][0])
    server.say(ROOM, "2", "last")
    await until(lambda: "last" in person.heard())
    assert person.heard() == ["once", "last"]


@pytest_twisted.ensureDeferred
async def test_a_new_epoch_starts_the_room_afresh(server: FakeServer, person: Person) -> None:
    """The server lost its store: seq counts from 1 again, and that is not taken for old."""
    await until(lambda: person.of(CaughtUp))
    for text in ("a", "b", "c"):
        server.say(ROOM, "2", text)
    server.rooms["lost"] = []
    server.say("lost", "2", "d")
    await until(lambda: len(person.heard()) == 4)
    server.epoch, server.rooms, server.tokens = "e2", {ROOM: []}, []
    server.say(ROOM, "2", "new", "cid")
    server.drop()
    await until(lambda: "new" in person.heard())
    assert person.of(Reset) == [Reset(ROOM, 0)]
    assert person.client.seen == {ROOM: 1}
    assert server.tokens == ["token-1"]


@pytest_twisted.ensureDeferred
async def test_who_left_a_room_forgets_where_they_were_in_it(server: FakeServer, person: Person) -> None:
    """A room that is made again, or joined again, may begin anywhere."""
    await until(lambda: person.of(CaughtUp))
    server.say(ROOM, "2", "hello")
    server.sessions[0].tell(type="left", rid=ROOM, seq=2, members=["3"], ctime=CTIME)
    server.sessions[0].tell(type="left", rid=ROOM, seq=3, members=["1"], ctime=CTIME)
    await until(lambda: len(person.of(Left)) == 2)
    assert person.client.seen == {}


@pytest_twisted.ensureDeferred
async def test_a_revoked_token_is_replaced(server: FakeServer, person: Person) -> None:
    """4401 means: get a new token. The room is joined again too, since the server may have lost all it had."""
    await until(lambda: person.of(CaughtUp))
    server.tokens.clear()
    server.drop()
    await until(lambda: len(person.of(CaughtUp)) == 2)
    assert [path for path, _ in server.calls] == ["/api/token", "/api/room/add"] * 2
    assert person.of(Error) == []
    assert person.of(Reconnecting)[-1] == Reconnecting(0.0, "the token is unknown, expired or revoked")


@pytest_twisted.ensureDeferred
async def test_an_error_that_answers_nothing_is_told_and_ends_nothing(server: FakeServer, person: Person) -> None:
    """Nor is it the reason when the connection is lost later."""
    await until(lambda: person.of(CaughtUp))
    server.sessions[0].tell(type="error", code="bad_request", reason="what was that?")
    await until(lambda: person.of(Error))
    server.drop()
    await until(lambda: len(person.of(Hello)) == 2)
    assert [waiting.reason for waiting in person.of(Reconnecting)] == ["the connection was lost"]


@pytest_twisted.ensureDeferred
async def test_who_was_kicked_does_not_come_back(server: FakeServer, person: Person) -> None:
    """4403 ends start() with the reason."""
    await until(lambda: person.of(CaughtUp))
    server.sessions[0].quit(4403, "kicked by the application")
    await until(lambda: person.failed)
    assert str(person.failed) == "forbidden: kicked by the application"
    assert len(server.sent("connect")) == 1


@pytest.mark.parametrize("reply", [(400, b'{"status":"error","error":"no such name","code":"bad_request"}')])
@pytest_twisted.ensureDeferred
async def test_a_refusal_by_rest_ends_it(server: FakeServer, reply: tuple[int, bytes]) -> None:
    """What can never succeed is not tried again."""
    server.reply = reply
    someone = Person(server)
    await until(lambda: someone.failed)
    assert str(someone.failed) == "bad_request: no such name"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((200, b"<html>"), "is not Mercury (status 200)"),
        ((503, b'{"status":"error","error":"no store","code":"unavailable"}'), "no store"),
        ((502, b'{"status":"error"}'), "answered 502"),
        ((200, b'{"status":"ok"}'), "answered without a token"),
        ((200, b" " * 70_000), "over 65536 bytes"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_rest_that_fails_is_tried_again(server: FakeServer, reply: tuple[int, bytes], reason: str) -> None:
    """The reason says what is wrong; when it is mended, the client goes on."""
    server.reply = reply
    someone = Person(server)
    await until(lambda: someone.of(Reconnecting))
    assert reason in someone.of(Reconnecting)[0].reason
    server.reply = None
    await until(lambda: someone.of(Hello))
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_not_there_is_tried_until_it_is(server: FakeServer) -> None:
    """The reason names what was tried."""
    await server.close()
    someone = Person(server)
    await until(lambda: len(someone.of(Reconnecting)) > 1)
    assert someone.of(Reconnecting)[0].reason == f"cannot reach http://127.0.0.1:{server.api_port}: Connection refused"
    server.listen()
    await until(lambda: someone.of(Hello))
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_bye_says_when_to_come_back(server: FakeServer) -> None:
    """Not before `retry_after`, however short the backoff is."""
    clock = Clock()
    someone = Person(server, clock)
    await until(lambda: someone.of(CaughtUp))
    server.sessions[0].tell(type="bye", retry_after=7.0)
    server.sessions[0].quit(1012, "the server is restarting")
    await until(lambda: someone.of(Reconnecting))
    assert someone.of(Reconnecting) == [Reconnecting(7.0, "the server is restarting")]
    clock.advance(6.9)
    await until(lambda: not server.sessions)
    assert len(server.sent("connect")) == 1
    clock.advance(0.2)
    await until(lambda: len(someone.of(Hello)) == 2)
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_silence_ends_a_connection_and_a_ping_is_no_silence(server: FakeServer) -> None:
    """The heartbeat is 10 s, so 25 s are too long."""
    clock = Clock()
    someone = Person(server, clock)
    await until(lambda: someone.of(CaughtUp))
    clock.advance(24.9)
    answered: list[bytes] = []
    server.sessions[0].onPong = answered.append  # type: ignore[assignment, method-assign]
    server.sessions[0].sendPing(b"there?")
    await until(lambda: answered)
    clock.advance(24.9)
    assert someone.client.connected
    clock.advance(0.2)
    assert not someone.client.connected
    await until(lambda: someone.of(Reconnecting))
    assert someone.of(Reconnecting)[0].reason == "nothing was received for 25 s"
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_say_hello_is_left(server: FakeServer) -> None:
    """Ten seconds for the handshake and the login."""
    clock = Clock()
    server.sabotage = lambda session, frame: True
    someone = Person(server, clock)
    await until(lambda: server.frames)
    clock.advance(10)
    await until(lambda: someone.of(Reconnecting))
    assert someone.of(Reconnecting)[0].reason == "the server did not say hello"
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_a_text_that_is_refused_for_now_keeps_its_place(server: FakeServer) -> None:
    """After `rate_limited` the same text goes out again, and only then the next."""
    clock = Clock()
    someone = Person(server, clock)
    await until(lambda: someone.of(CaughtUp))

    def refuse_the_first(session: Session, frame: dict[str, Any]) -> bool:
        if frame["type"] != "send" or len(server.sent("send")) > 1:
            return False
        session.tell(type="error", ref=frame["ref"], code="rate_limited", reason="too fast", retry_after=3.0)
        return True

    server.sabotage = refuse_the_first
    someone.say("one")
    someone.say("two")
    await until(lambda: any(call.getTime() == clock.seconds() + 3.0 for call in clock.getDelayedCalls()))
    clock.advance(3.0)
    await until(lambda: len(someone.answers) == 2)
    assert [send["text"] for send in server.sent("send")] == ["one", "one", "two"]
    assert server.texts() == ["one", "two"]
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_a_text_that_is_refused_for_good_lets_the_next_one_pass(server: FakeServer, person: Person) -> None:
    """Whoever sent it is told."""
    await until(lambda: person.of(CaughtUp))

    def refuse_long_ones(session: Session, frame: dict[str, Any]) -> bool:
        if len(frame.get("text", "")) < 10:
            return False
        session.tell(type="error", ref=frame["ref"], code="too_large", reason="text is too long")
        return True

    server.sabotage = refuse_long_ones
    person.say("much too long")
    person.say("short")
    await until(lambda: len(person.answers) == 2)
    assert person.answers == ["too_large", SendOk(ref=2, id=101, seq=1, duplicate=False)]


@pytest_twisted.ensureDeferred
async def test_a_connection_that_answers_no_more_is_replaced(server: FakeServer) -> None:
    """After 30 s, though it may still ping; the text goes out again with its cid."""
    clock = Clock()
    someone = Person(server, clock)
    await until(lambda: someone.of(CaughtUp))
    server.sabotage = lambda session, frame: frame["type"] == "send"
    someone.say("hello?")
    await until(lambda: server.sent("send"))
    server.sabotage = lambda session, frame: False
    clock.advance(20)
    server.sessions[0].tell(type="typing", rid=ROOM, mid="2")
    await until(lambda: len(someone.events) == 3)
    clock.advance(10)
    await until(lambda: someone.of(Reconnecting))
    assert someone.of(Reconnecting)[0].reason == "no answer within 30 s"
    clock.advance(0)
    await until(lambda: someone.answers)
    assert len({send["cid"] for send in server.sent("send")}) == 1
    assert server.texts() == ["hello?"]
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_other_commands_get_their_own_answers_or_an_error(server: FakeServer, person: Person) -> None:
    """An answer is of the type that was asked for; without a connection there is none."""
    with pytest.raises(MercuryError, match="not connected"):
        await person.client.ask(History(rid=ROOM), HistoryOk)
    await until(lambda: person.of(CaughtUp))

    def answer(session: Session, frame: dict[str, Any]) -> bool:
        if frame["type"] != "history":
            return False
        messages = server.rooms[ROOM]
        if frame["limit"] == 1:
            session.tell(type="ok", ref=frame["ref"], messages=messages, more=False)
        elif frame["limit"] == 2:
            session.tell(type="ok", ref=frame["ref"])
        else:
            session.drop()
        return True

    server.sabotage = answer
    server.say(ROOM, "2", "hello")
    ok = await person.client.ask(History(rid=ROOM, limit=1), HistoryOk)
    assert [message.text for message in ok.messages] == ["hello"]
    with pytest.raises(MercuryError, match="cannot be decoded"):
        await person.client.ask(History(rid=ROOM, limit=2), HistoryOk)
    with pytest.raises(MercuryError, match="the connection was lost"):
        await person.client.ask(History(rid=ROOM, limit=3), HistoryOk)


@pytest_twisted.ensureDeferred
async def test_unknown_frames_are_left_out_and_broken_ones_end_the_connection(
    server: FakeServer, person: Person
) -> None:
    """A later server may tell more; what is not JSON tells nothing."""
    await until(lambda: person.of(CaughtUp))
    server.sessions[0].tell(type="reaction", rid=ROOM, seq=1)
    server.say(ROOM, "2", "still here")
    await until(person.heard)
    server.sessions[0].tell_raw(b"{")
    await until(lambda: len(person.of(Hello)) == 2)
    assert [waiting.reason for waiting in person.of(Reconnecting)] == ["the server sent something that is not JSON"]


@pytest_twisted.ensureDeferred
async def test_the_number_of_unsent_texts_is_bounded(server: FakeServer) -> None:
    """The thousand and first is refused at once."""
    await server.close()
    someone = Person(server)
    for number in range(1001):
        someone.say(str(number))
    assert someone.answers == ["busy"]
    assert len(someone.client.unsent) == 1000
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_stop_tells_what_was_received_and_closes(server: FakeServer) -> None:
    """So the next start does not show it again; start() ends with CancelledError."""
    someone = Person(server)
    await until(lambda: someone.of(CaughtUp))
    server.say(ROOM, "2", "hello")
    await until(someone.heard)
    await someone.client.stop()
    await until(lambda: not server.sessions)
    assert server.sent("ack") == [{"type": "ack", "ref": None, "rid": ROOM, "seq": 1}]
    assert isinstance(someone.failed, CancelledError)


def test_backoff_doubles_to_its_cap_with_full_jitter() -> None:
    """Half a second, doubling to 15; the whole range below is used; a reset begins again."""

    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    backoff = Backoff(Longest())
    assert [backoff.next() for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    backoff.reset()
    assert backoff.next() == 0.5


@pytest_twisted.ensureDeferred
async def test_a_stable_connection_resets_the_backoff_and_a_short_one_does_not(server: FakeServer) -> None:
    """Or else a server that drops every connection at once would be asked every half second."""
    clock = Clock()
    someone = Person(server, clock)
    resets: list[float] = []
    someone.client._backoff.reset = lambda: resets.append(clock.seconds())  # type: ignore[method-assign]
    for connection, seconds in enumerate((14.0, 16.0), 1):
        await until(lambda: len(someone.of(CaughtUp)) == connection)  # noqa: B023 - called at once
        clock.advance(seconds)
        server.drop()
        await until(lambda: len(someone.of(Reconnecting)) == connection)  # noqa: B023 - called at once
        clock.advance(0)
    assert resets == [30.0]
    await someone.client.stop()


@pytest_twisted.ensureDeferred
async def test_it_can_be_stopped_while_a_server_lets_it_wait() -> None:
    """Whatever it is waiting for: here for the answer to its first REST call, which never comes."""
    listening: Any = reactor
    deaf: Any = listening.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    someone = Client(
        reactor, "1", [ROOM], lambda event: None, server=ServerAddress("127.0.0.1", deaf.getHost().port, 1)
    )
    started = someone.start()
    await deferLater(reactor, 0.05)
    await someone.stop()
    with pytest.raises(CancelledError):
        await started.addTimeout(10, reactor)
    await deaf.stopListening()
