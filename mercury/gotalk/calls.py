"""goTalk's door by Klein: its calls and its pages on a port of their own. docs/gotalk.md is the reference.

A call is let in by the token that it names or, for goTalk's own pages, by the cookie that /login sets. Importing Klein
installs the reactor, so it is imported when a site is made.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mercury.core.parts import Chat
from mercury.errors import MercuryError
from mercury.gotalk import forms
from mercury.gotalk.accounts import Accounts, Session
from mercury.gotalk.contacts import People
from mercury.gotalk.conversations import member_of, room_of
from mercury.gotalk.forms import Form, Link, User
from mercury.gotalk.pages import add_pages
from mercury.gotalk.receipts import Proof, ProvingRequest, ProvingSite
from mercury.gotalk.sync import LONGEST_WAIT, Handover, Poll, device_of
from mercury.http.responses import Quoted, answered, no_route, refuse_strange_pages
from mercury.net.address_filter import key_of
from mercury.settings.schema import Gotalk

CALL_SECONDS: Final = 30.0  # for a call's work, waiting aside; the store's own limits are shorter
COOKIE: Final = "gotalk"
OTHER_FIELDS: Final = 16_384  # bytes of a form beside a text
ESCAPED: Final = 6  # bytes for one of a text's, as JSON may write it


@dataclass
class Asked:
    """One call as it came in. `cookie`: the token in it, if there is one. `gone`: its client has hung up."""

    form: Form
    cookie: str
    address: bytes
    request: ProvingRequest
    gone: bool = False
    poll: Poll | None = None

    def hang_up(self) -> None:
        """The client is gone."""
        self.gone = True
        if self.poll is not None:
            self.poll.drop()


@dataclass
class Answer:
    """What is said, as JSON. `proof`: what to do when it has arrived, where that matters."""

    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    proof: Proof | None = None


class Door:
    """The calls."""

    def __init__(self, chat: Chat, accounts: Accounts, handover: Handover, settings: Gotalk) -> None:
        self.chat = chat
        self._accounts = accounts
        self._handover = handover
        self._people = People(chat, accounts)
        self._settings = settings

    # People

    async def register(self, asked: Asked) -> Answer:
        form = asked.form
        name, password = form.text("username"), form.text("password")
        account = await self._accounts.register(name, password, form.text_or("invite", ""), asked.address)
        return Answer(User(account.id, account.name))

    async def login(self, asked: Asked) -> Answer:
        name, password = asked.form.text("username"), asked.form.text("password")
        account, token, expires = await self._accounts.login(name, password, asked.address)
        cookie = self._cookie(asked, token, expires // 1_000_000 - int(time.time()))
        shown = "" if asked.form.has("cookieonly") else token  # no script shall be able to read it
        return Answer(User(account.id, account.name, SessionID=shown), cookie)

    async def logout(self, asked: Asked) -> Answer:
        for token in {asked.form.text_or("token", ""), asked.cookie} - {""}:
            await self._accounts.logout(token)
        return Answer(forms.LOGGED_OUT, self._cookie(asked, "", 0))

    async def getuseridbyname(self, asked: Asked) -> Answer:
        account = await self._accounts.by_name(asked.form.text("username"))
        return Answer(User(account.id, account.name))

    async def addfriend(self, asked: Asked) -> Answer:
        session, friend = await self._session(asked), asked.form.number("friendid")
        return Answer(Link(await self._accounts.befriend(session.id, friend), session.id, friend))

    async def friendlist(self, asked: Asked) -> Answer:
        session = await self._session(asked)
        return Answer(await self._accounts.friends(session.id))

    # Messages

    async def send(self, asked: Asked) -> Answer:
        session, form = await self._session(asked), asked.form
        receiver, content = form.number("sendToId"), form.text("content")
        if not content:
            raise MercuryError("bad_request", "the field content is empty")
        if name := form.text_or("username", ""):
            await self._accounts.check_name(session.id, name)
        await self._accounts.check(receiver)
        both = [member_of(session.id), member_of(receiver)]
        room = room_of(session.id, receiver)
        await self.chat.rooms.join_and_send(session.member, room, both, content, form.text_or("cid", "") or None)
        return Answer(forms.RECEIVED)

    async def sync(self, asked: Asked) -> Answer:
        session, form = await self._session(asked), asked.form
        ack = form.number_or("ack", 0) if form.has("ack") else None
        device = device_of(form.text_or("device", ""))
        poll = asked.poll = Poll(session, device, ack, form.number_or("wait", 0), asked.gone)
        entries = await self._handover.sync(poll)
        if not entries:
            return Answer(forms.NOTHING)
        proof = None if ack is not None else lambda: self._handover.proved(poll, entries)
        return Answer([forms.message(entry, session.id) for entry in entries], proof=proof)

    # What the pages show beside

    async def people(self, asked: Asked) -> Answer:
        session = await self._session(asked)
        name, known = await self._accounts.name(session.id), await self._people.known(session)
        return Answer(forms.people(session.id, name, known))

    async def history(self, asked: Asked) -> Answer:
        session, form = await self._session(asked), asked.form
        other, before = form.number("friendid"), form.number_or("before", 0) or None
        after = form.number("after") if form.has("after") else None
        entries, more = await self._people.history(session, other, before, after)
        return Answer(forms.history(entries, more, session.id, other))

    async def read(self, asked: Asked) -> Answer:
        session, form = await self._session(asked), asked.form
        await self._people.read(session, form.number("friendid"), form.number("seq"))
        return Answer(forms.READ)

    # Who asks

    async def _session(self, asked: Asked) -> Session:
        """Who is let in: by the token that the call names or else, as goTalk's pages need it, by the cookie."""
        id = asked.form.number_or("id", -1)
        last = MercuryError("unauthorized", "log in, and give the token that /login answers as SessionID")
        for token in (asked.form.text_or("token", ""), asked.cookie):
            if token:
                try:
                    session = await self._accounts.session(token)
                except MercuryError as error:
                    if error.code != "unauthorized":
                        raise
                    last = error
                else:
                    if id in (-1, session.id):
                        return session
                    last = MercuryError("unauthorized", f"the token is not of user {id}")
        raise last

    def _cookie(self, asked: Asked, token: str, seconds: int) -> dict[str, str]:
        """A header that sets the cookie, or with seconds=0 takes it away (RFC 6265, 5.2)."""
        secure = "; Secure" if self._settings.secure or asked.request.isSecure() else ""  # type: ignore[no-untyped-call]
        return {"Set-Cookie": f"{COOKIE}={token}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}"}


class FormSite(ProvingSite):
    """A site for forms. They need not be as long as REST's lists, and take ten times as long to read: so there is room
    for one text, in which each byte may be written as an escape of six, and for all else that a form can hold."""

    body_flags = "--limits.text-bytes, --limits.body-bytes"

    @property
    def body_bytes(self) -> int:
        texts, most = self.limits.text_bytes, self.limits.body_bytes
        return min(OTHER_FIELDS + ESCAPED * texts, most) if texts else most


def make_gotalk_site(chat: Chat, accounts: Accounts, handover: Handover, settings: Gotalk) -> ProvingSite:
    """The factory of goTalk's port."""
    from klein import Klein
    from werkzeug.exceptions import HTTPException

    door = Door(chat, accounts, handover, settings)
    app = Klein()
    for call in (
        door.register, door.login, door.logout, door.getuseridbyname, door.send, door.sync, door.addfriend,
        door.friendlist, door.people, door.history, door.read,
    ):  # fmt: skip
        name = call.__name__
        app.route(f"/{name}", methods=["POST"], endpoint=name)(_call(door, name, call))
    add_pages(app)

    @app.handle_errors(HTTPException)
    def nothing_there(request: Any, failure: Failure) -> bytes:
        return no_route(request, failure.value, "people go to /login")

    return FormSite(Quoted(app.resource()), chat)


def _call(door: Door, name: str, call: Callable[[Asked], Awaitable[Answer]]) -> Callable[..., Deferred[bytes]]:
    """What Klein calls for a request."""
    seconds = CALL_SECONDS + (LONGEST_WAIT if name == "sync" else 0)

    def respond(request: ProvingRequest) -> Deferred[bytes]:
        return answered(_work(door, call, request), request, f"goTalk's {name}", door.chat.clock, seconds)

    return respond


async def _work(door: Door, call: Callable[[Asked], Awaitable[Answer]], request: ProvingRequest) -> bytes:
    refuse_strange_pages(request)
    form = forms.read_form(request.getHeader("content-type") or "", request.content.read())
    cookie = (request.getCookie(COOKIE.encode()) or b"").decode("latin-1")  # type: ignore[no-untyped-call]
    asked = Asked(form, cookie, key_of(request.getClientAddress()), request)  # type: ignore[no-untyped-call]
    request.notifyFinish().addErrback(lambda _: asked.hang_up())
    await request.channel.proved()
    answer = await call(asked)
    body = request.respond(200, msgspec.json.encode(answer.body), answer.headers)
    if answer.proof is None:
        return body
    return await request.prove(body, answer.proof, door.chat.clock)
