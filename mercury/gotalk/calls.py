"""goTalk's HTTP calls, by Klein, with its pages on a port of their own. docs/gotalk.md is the reference.

A call is authorized by the token in its form or, for goTalk's own pages, by the cookie that /login sets. Importing
Klein installs the reactor, so it is imported when a site is made.
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
from mercury.gotalk.accounts import Accounts, GotalkSession
from mercury.gotalk.contacts import Contacts
from mercury.gotalk.conversations import member_of, room_of
from mercury.gotalk.forms import Form, Friendship, User
from mercury.gotalk.pages import add_pages
from mercury.gotalk.receipts import OnReceived, ReceiptRequest, ReceiptSite
from mercury.gotalk.sync import LONGEST_WAIT, Poll, Sync, device_of
from mercury.http.responses import Quoted, answered, no_route, refuse_strange_pages
from mercury.net.address_filter import key_of
from mercury.settings.schema import Gotalk

CALL_SECONDS: Final = 30.0  # for a call's work, apart from waiting; the store's own limits are shorter
COOKIE: Final = "gotalk"
OTHER_FIELDS: Final = 16_384  # bytes of a form without the text
ESCAPED: Final = 6  # bytes that JSON may need for one byte of a text


@dataclass
class Incoming:
    """One call. `cookie`: the token in its cookie, or empty. `gone`: the client has closed the connection."""

    form: Form
    cookie: str
    address: bytes
    request: ReceiptRequest
    gone: bool = False
    poll: Poll | None = None

    def hang_up(self) -> None:
        """The client has closed the connection."""
        self.gone = True
        if self.poll is not None:
            self.poll.drop()


@dataclass
class Reply:
    """The answer, as JSON. `on_received`: what to do when it has arrived, where that matters."""

    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    on_received: OnReceived | None = None


Handler = Callable[[Incoming], Awaitable[Reply]]


class GotalkHandlers:
    """The calls, each with a method of its name."""

    def __init__(self, chat: Chat, accounts: Accounts, sync: Sync, settings: Gotalk) -> None:
        self._chat = chat
        self._accounts = accounts
        self._sync = sync
        self._contacts = Contacts(chat, accounts)
        self._settings = settings

    # People

    async def register(self, call: Incoming) -> Reply:
        form = call.form
        name, password = form.text("username"), form.text("password")
        account = await self._accounts.register(name, password, form.text_or("invite", ""), call.address)
        return Reply(User(account.id, account.name))

    async def login(self, call: Incoming) -> Reply:
        name, password = call.form.text("username"), call.form.text("password")
        account, token, expires = await self._accounts.login(name, password, call.address)
        cookie = self._cookie(call, token, expires // 1_000_000 - int(time.time()))
        shown = "" if call.form.has("cookieonly") else token  # scripts must not be able to read it
        return Reply(User(account.id, account.name, SessionID=shown), cookie)

    async def logout(self, call: Incoming) -> Reply:
        for token in {call.form.text_or("token", ""), call.cookie} - {""}:
            await self._accounts.logout(token)
        return Reply(forms.LOGGED_OUT, self._cookie(call, "", 0))

    async def getuseridbyname(self, call: Incoming) -> Reply:
        account = await self._accounts.by_name(call.form.text("username"))
        return Reply(User(account.id, account.name))

    async def addfriend(self, call: Incoming) -> Reply:
        session, friend = await self._session(call), call.form.number("friendid")
        return Reply(Friendship(await self._accounts.befriend(session.id, friend), session.id, friend))

    async def friendlist(self, call: Incoming) -> Reply:
        session = await self._session(call)
        return Reply(await self._accounts.friends(session.id))

    # Messages

    async def send(self, call: Incoming) -> Reply:
        session, form = await self._session(call), call.form
        receiver, content = form.number("sendToId"), form.text("content")
        if not content:
            raise MercuryError("bad_request", "the field content is empty")
        if name := form.text_or("username", ""):
            await self._accounts.check_name(session.id, name)
        await self._accounts.check(receiver)
        both = [member_of(session.id), member_of(receiver)]
        room = room_of(session.id, receiver)
        await self._chat.rooms.join_and_send(session.member, room, both, content, form.text_or("cid", "") or None)
        return Reply(forms.RECEIVED)

    async def sync(self, call: Incoming) -> Reply:
        session, form = await self._session(call), call.form
        ack = form.number_or("ack", 0) if form.has("ack") else None
        device = device_of(form.text_or("device", ""))
        poll = call.poll = Poll(session, device, ack, form.number_or("wait", 0), call.gone)
        entries = await self._sync.messages(poll)
        if not entries:
            return Reply(forms.NOTHING)
        on_received = None if ack is not None else lambda: self._sync.received(poll, entries)
        return Reply([forms.message(entry, session.id) for entry in entries], on_received=on_received)

    # For the pages

    async def people(self, call: Incoming) -> Reply:
        session = await self._session(call)
        name, contacts = await self._accounts.name(session.id), await self._contacts.contacts(session)
        return Reply(forms.people(session.id, name, contacts))

    async def history(self, call: Incoming) -> Reply:
        session, form = await self._session(call), call.form
        other, before = form.number("friendid"), form.number_or("before", 0) or None
        after = form.number("after") if form.has("after") else None
        entries, more = await self._contacts.history(session, other, before, after)
        return Reply(forms.history(entries, more, session.id, other))

    async def read(self, call: Incoming) -> Reply:
        session, form = await self._session(call), call.form
        await self._contacts.read(session, form.number("friendid"), form.number("seq"))
        return Reply(forms.READ)

    # Authorization

    async def _session(self, call: Incoming) -> GotalkSession:
        """The session of the token in the form or, for goTalk's pages, in the cookie. Raises unauthorized."""
        id = call.form.number_or("id", -1)
        last = MercuryError("unauthorized", "log in, and send the token that /login returns as SessionID")
        for token in (call.form.text_or("token", ""), call.cookie):
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

    def _cookie(self, call: Incoming, token: str, seconds: int) -> dict[str, str]:
        """A header that sets the cookie, or with seconds=0 deletes it (RFC 6265, 5.2)."""
        secure = "; Secure" if self._settings.secure or call.request.isSecure() else ""  # type: ignore[no-untyped-call]
        return {"Set-Cookie": f"{COOKIE}={token}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}"}


class FormSite(ReceiptSite):
    """A site for forms, which are shorter than REST's lists and take ten times as long to parse. There is room for one
    text, in which each byte may be escaped as six, and for the other fields."""

    body_flags = "--limits.text-bytes, --limits.body-bytes"

    @property
    def body_bytes(self) -> int:
        texts, most = self.limits.text_bytes, self.limits.body_bytes
        return min(OTHER_FIELDS + ESCAPED * texts, most) if texts else most


def make_gotalk_site(chat: Chat, accounts: Accounts, sync: Sync, settings: Gotalk) -> ReceiptSite:
    """The factory of goTalk's port."""
    from klein import Klein
    from werkzeug.exceptions import HTTPException

    on = GotalkHandlers(chat, accounts, sync, settings)
    app = Klein()
    for handler in (
        on.register, on.login, on.logout, on.getuseridbyname, on.send, on.sync, on.addfriend, on.friendlist, on.people,
        on.history, on.read,
    ):  # fmt: skip
        name = handler.__name__
        app.route(f"/{name}", methods=["POST"], endpoint=name)(_route(handler, name, chat.clock))
    add_pages(app)

    @app.handle_errors(HTTPException)
    def nothing_there(request: Any, failure: Failure) -> bytes:
        return no_route(request, failure.value, "people go to /login")

    return FormSite(Quoted(app.resource()), chat)


def _route(handler: Handler, name: str, clock: Any) -> Callable[..., Deferred[bytes]]:
    """What Klein calls for a request."""
    seconds = CALL_SECONDS + (LONGEST_WAIT if name == "sync" else 0)

    def respond(request: ReceiptRequest) -> Deferred[bytes]:
        return answered(_work(handler, request, clock), request, f"goTalk's {name}", clock, seconds)

    return respond


async def _work(handler: Handler, request: ReceiptRequest, clock: Any) -> bytes:
    refuse_strange_pages(request)
    form = forms.read_form(request.getHeader("content-type") or "", request.content.read())
    cookie = (request.getCookie(COOKIE.encode()) or b"").decode("latin-1")  # type: ignore[no-untyped-call]
    call = Incoming(form, cookie, key_of(request.getClientAddress()), request)  # type: ignore[no-untyped-call]
    request.notifyFinish().addErrback(lambda _: call.hang_up())
    await request.channel.confirmed()
    reply = await handler(call)
    body = request.respond(200, msgspec.json.encode(reply.body), reply.headers)
    if reply.on_received is None:
        return body
    return await request.hold_back(body, reply.on_received, clock)
