"""Accounts: which names are the same, who gets in and who does not, and what trying often costs."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import Any, TypeVar
from unicodedata import normalize

import pytest
from argon2 import Parameters, PasswordHasher, extract_parameters
from hypothesis import given
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, maybeDeferred

from mercury.domain import close_codes
from mercury.domain.model import NAME_BYTES
from mercury.errors import MercuryError
from mercury.gotalk.accounts import Accounts
from mercury.gotalk.conversations import id_of, member_of, pair_of, room_of
from mercury.gotalk.names import comparison_key, display_name
from mercury.gotalk.passwords import PASSWORD_BYTES, THREADS, WAITING, Passwords
from mercury.settings.schema import Gotalk
from mercury.settings.types import Secret
from tests.support.clockwork import Clockwork
from tests.support.in_process_node import reactor, until

T = TypeVar("T")
PASSWORD = "correct horse"


class Cheap(Passwords):
    """Hashes at once and for little."""

    def __init__(self) -> None:
        super().__init__(None, maybeDeferred)
        self._hasher = PasswordHasher(1, 8, 1)


class Office:
    """Accounts on a Clock."""

    def __init__(self, **rules: Any) -> None:
        self.node = Clockwork()
        self.passwords = Cheap()
        store: Any = self.node.store
        self.accounts = Accounts(self.node.clock, store, self.node.chat.tokens, self.passwords, Gotalk(**rules))

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.node.now(work)

    def register(self, name: str, password: str = PASSWORD, invite: str = "", address: bytes = b"here") -> int:
        return self.now(self.accounts.register(name, password, invite, address)).id

    def login(self, name: str, password: str = PASSWORD, address: bytes = b"here") -> str:
        """The token."""
        return self.now(self.accounts.login(name, password, address))[1]


def refusal(work: Any, *args: Any) -> str:
    """The code with which something is refused."""
    with pytest.raises(MercuryError) as caught:
        work(*args)
    return caught.value.code


# Names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "ANN"),
        ("Ａｎｎ", "ann"),
        ("Zoë", "Zoe\u0308"),
        ("Straße", "STRASSE"),
        ("ann", "an\u200dn"),
        ("ann", "an\ufe0fn"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("  Ann \u00a0 Lee ", "ann lee"),
        ("ﬁn", "FIN"),
    ],
)
def test_names_that_look_alike_are_the_same(one: str, other: str) -> None:
    assert comparison_key(display_name(one)) == comparison_key(display_name(other))


@pytest.mark.parametrize(("one", "other"), [("ann", "anna"), ("ann", "änn"), ("1", "l"), ("ann lee", "annlee")])
def test_names_that_differ_are_not(one: str, other: str) -> None:
    assert comparison_key(display_name(one)) != comparison_key(display_name(other))


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "\u3000",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\u200bb",
        "a\u202eb",
        "\u3164",
        "a\ud800",
        "a\ue000",
        "a\u2028b",
        "a" * (NAME_BYTES + 1),
        "ﷺ" * 20,
    ],
)
def test_names_that_nobody_could_read_are_refused(name: str) -> None:
    assert refusal(display_name, name) == "bad_request"


@pytest.mark.parametrize(
    "name", ["Ann", "Иван", "李小龙", "O'Brien-Smith <b>", "علی\u200cرضا", "👩\u200d🔧", "a" * NAME_BYTES]
)
def test_names_are_kept_as_they_were_written(name: str) -> None:
    assert display_name(name) == name


def test_names_are_kept_in_one_form() -> None:
    assert display_name("Zoe\u0308") == "Zoë"


@given(st.text(max_size=30))
def test_a_name_is_either_refused_or_settled(name: str) -> None:
    try:
        kept = display_name(name)
    except MercuryError:
        return
    assert display_name(kept) == kept == normalize("NFC", kept)
    assert comparison_key(kept) == comparison_key(name) == comparison_key(comparison_key(kept))
    assert comparison_key(kept.casefold()) == comparison_key(kept)


def test_what_a_person_and_a_conversation_are_called_can_be_read_back() -> None:
    assert id_of(member_of(7)) == 7
    assert pair_of(room_of(7, 3)) == pair_of(room_of(3, 7)) == (3, 7)
    for strange in ("gotalk:07", "gotalk:", "gotalk:0", "gotalk:x", "gotalk:٣", "gotalk:7 ", "7", "gotalk:7\n"):
        assert (id_of(strange), pair_of(strange)) == (None, None)
    assert pair_of("gotalk:7:3") is None


# Registering and logging in


def test_who_has_registered_can_log_in_and_is_a_member_of_mercury() -> None:
    office = Office()
    id = office.register("Ann")
    session = office.now(office.accounts.session(office.login("ANN")))
    assert (session.id, session.member) == (id, member_of(id))
    assert office.now(office.node.chat.tokens.check(office.login("ann"), member_of(id))).mid == member_of(id)


def test_a_name_is_taken_once_however_it_is_written() -> None:
    office = Office()
    office.register("Ann")
    assert refusal(office.register, "ANN") == "conflict"
    assert office.now(office.accounts.by_name("aNN")).name == "Ann"
    assert refusal(office.now, office.accounts.by_name("bob")) == "not_found"


def test_two_who_register_a_name_at_once_are_not_both_told_that_it_is_theirs() -> None:
    office = Office()
    waiting: list[tuple[Any, Deferred[Any]]] = []

    def later(work: Any) -> Deferred[Any]:
        waiting.append((work, Deferred()))
        return waiting[-1][1]

    office.passwords._in_thread = later
    made: list[Any] = []
    for _ in range(2):
        registering = Deferred.fromCoroutine(office.accounts.register("ann", PASSWORD, "", b""))
        registering.addCallbacks(made.append, lambda failure: made.append(failure.value.code))
    for work, hashed in waiting:
        hashed.callback(work())
    assert made[1] == "conflict"
    assert made[0].name == "ann"


@pytest.mark.parametrize(
    "password", ["", "1234567", "x" * (PASSWORD_BYTES + 1), "ü" * (PASSWORD_BYTES // 2 + 1), "ANNA MARIA"]
)
def test_passwords_that_are_none_are_refused(password: str) -> None:
    assert refusal(Office().register, "anna maria", password) == "bad_request"


def test_the_shortest_password_is_a_setting() -> None:
    assert Office(password_least=3).register("ann", "xyz") == 1


def test_a_password_is_the_same_however_a_device_writes_it() -> None:
    office = Office()
    office.register("ann", "Zoë und Zoe\u0308")
    assert office.login("ann", "Zoe\u0308 und Zoë")
    assert refusal(office.login, "ann", "zoë und zoë") == "unauthorized"


@pytest.mark.parametrize(
    ("registration", "invite", "code"), [("closed", "key", "forbidden"), ("invite", "", "forbidden")]
)
def test_registration_may_be_closed(registration: str, invite: str, code: str) -> None:
    assert refusal(Office(registration=registration, invite=Secret("key")).register, "ann", PASSWORD, invite) == code
    assert refusal(Office(registration=registration).register, "ann", PASSWORD, "") == code


def test_an_invitation_lets_in() -> None:
    office = Office(registration="invite", invite=Secret("schlüssel"))
    assert refusal(office.register, "ann", PASSWORD, "schluessel") == "forbidden"
    assert office.register("ann", PASSWORD, "schlüssel") == 1


def test_a_wrong_password_and_an_unknown_name_are_told_apart_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    office.register("ann")
    compared: list[Parameters] = []
    verify = PasswordHasher.verify

    def watched(hasher: PasswordHasher, hash: str, password: Any) -> bool:
        compared.append(extract_parameters(hash))
        return verify(hasher, hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    said = []
    for name in ("ann", "nobody"):
        with pytest.raises(MercuryError) as caught:
            office.login(name, "wrong")
        said.append(str(caught.value))
    assert said == ["unauthorized: the username or the password is wrong"] * 2
    assert len(compared) == 2
    assert compared[0] == compared[1]


def test_nobodys_password_lets_nobody_in() -> None:
    office = Office()
    assert refusal(office.login, "nobody", "nobody") == "unauthorized"


def test_a_hash_is_made_anew_when_it_should_cost_more_by_now() -> None:
    office = Office()
    office.register("ann")
    before = office.now(_account(office)).secret
    office.passwords._hasher = PasswordHasher(2, 16, 1)
    office.login("ann")
    after = office.now(_account(office)).secret
    assert ("t=1" in before, "t=2" in after) == (True, True)
    assert office.login("ann")
    assert office.now(_account(office)).secret == after


async def _account(office: Office) -> Any:
    return await office.accounts.by_name("ann")


# Sessions


def test_a_session_ends_by_time_by_logging_out_and_by_the_application() -> None:
    office = Office()
    id = office.register("ann")
    for end in (
        lambda token: office.now(office.accounts.logout(token)),
        lambda token: office.now(office.node.chat.tokens.revoke_all(member_of(id))),
        lambda token: setattr(office.node, "wall", office.node.wall + 86401),
    ):
        token = office.login("ann")
        assert office.now(office.accounts.session(token)).id == id
        end(token)
        assert refusal(office.now, office.accounts.session(token)) == "unauthorized"
    office.now(office.accounts.logout("never was one"))


def test_logging_out_closes_what_was_connected_with_the_session() -> None:
    office = Office()
    member = member_of(office.register("ann"))
    secret = office.login("ann")
    phone, other = office.node.device(member, login=False), office.node.device(member)
    phone.session.login(office.now(office.node.chat.tokens.check(secret, member)), 0, "phone")
    office.node.settle()
    office.now(office.accounts.logout(secret))
    assert (phone.code, other.code) == (close_codes.UNAUTHORIZED.code, None)


def test_tokens_of_others_are_no_sessions() -> None:
    office = Office()
    for member in ("ann", "gotalk:1", "gotalk:x"):
        secret, _ = office.now(office.node.chat.tokens.make(member))
        assert refusal(office.now, office.accounts.session(secret)) == "unauthorized"


# Trying often


def test_wrong_passwords_are_throttled_for_a_name_wherever_they_come_from() -> None:
    office = Office(logins_per_minute=3)
    office.register("ann")
    office.register("bob")
    for n in range(3):
        assert refusal(office.login, "ann", "wrong", b"%d" % n) == "unauthorized"
    with pytest.raises(MercuryError) as caught:
        office.login("ann", PASSWORD, b"9")
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after == pytest.approx(20)
    assert office.login("bob", PASSWORD, b"0")
    office.node.clock.advance(20)
    assert office.login("ann", PASSWORD, b"9")


def test_wrong_passwords_are_throttled_for_an_address_whatever_the_name() -> None:
    office = Office(logins_per_minute=3)
    for n in range(3):
        assert refusal(office.login, f"name {n}", "wrong") == "unauthorized"
    assert refusal(office.login, "another", "wrong") == "rate_limited"
    assert refusal(office.login, "another", "wrong", b"elsewhere") == "unauthorized"


def test_right_passwords_are_not_counted() -> None:
    office = Office(logins_per_minute=2)
    office.register("ann")
    assert len({office.login("ann") for _ in range(9)}) == 9


def test_registrations_are_throttled_for_an_address() -> None:
    office = Office(registrations_per_minute=2)
    assert [office.register(name) for name in ("a", "b")] == [1, 2]
    assert refusal(office.register, "c") == "rate_limited"
    assert office.register("c", PASSWORD, "", b"elsewhere") == 3


# Friends


def test_friends_are_so_on_both_sides_and_once() -> None:
    office = Office()
    ann, bob, eve = (office.register(name) for name in ("ann", "bob", "eve"))
    link = office.now(office.accounts.befriend(ann, bob))
    assert office.now(office.accounts.befriend(bob, ann)) == link
    office.now(office.accounts.befriend(ann, eve))
    assert [office.now(office.accounts.friends(id)) for id in (ann, bob, eve)] == [[bob, eve], [ann], [ann]]
    assert refusal(office.now, office.accounts.befriend(ann, ann)) == "bad_request"
    assert refusal(office.now, office.accounts.befriend(ann, 99)) == "not_found"


# Threads


@ensureDeferred
async def test_hashing_takes_two_threads_and_no_more_wait_than_can_be_served() -> None:
    passwords = Passwords(reactor)
    passwords.start()
    gate, running, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def work() -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(30)
        with lock:
            running[0] -= 1
        return "done"

    try:
        asked = [Deferred.fromCoroutine(passwords._do(work)) for _ in range(THREADS + WAITING)]
        await until(lambda: running[0] == THREADS)
        with pytest.raises(MercuryError, match="busy"):
            await passwords._do(work)
        gate.set()
        assert [await one for one in asked] == ["done"] * (THREADS + WAITING)
        assert most == [THREADS]
        assert await passwords.verify(await passwords.hash("x"), "x")
        assert await passwords.verify(await passwords.hash("x"), "y") is None
    finally:
        gate.set()
        passwords.stop()
