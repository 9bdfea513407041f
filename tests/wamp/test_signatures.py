"""Signatures by WAMP-CRA: Autobahn's own functions make them from a token, and only they let its member in."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_twisted
from autobahn.wamp.auth import compute_wcs, derive_key
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mercury.core.tokens import ITERATIONS, KEY_BYTES, SALT, Tokens, digest
from mercury.domain.model import Token
from mercury.errors import MercuryError
from mercury.node.build import make_chat
from mercury.settings import schema
from mercury.settings.limits import Limits
from mercury.stores.memory.store import MemoryStore

CHALLENGE = '{"authid":"ann","nonce":"0123456789abcdef","timestamp":"2026-01-01T00:00:00.000Z","session":1}'
REFUSED = "^unauthorized: the token is unknown, expired, revoked or another member's$"
TTL = 60  # seconds
KEEP = 3


class Desk(NamedTuple):
    """Where tokens are made and checked, by the time of a clock."""

    tokens: Tokens
    store: MemoryStore
    clock: Clock

    async def accepts(self, member: str, signature: str) -> Token:
        """The token with which CHALLENGE was signed."""
        return await self.tokens.check_signature(member, CHALLENGE, signature)

    async def refuses(self, member: str, signature: str, challenge: str = CHALLENGE) -> None:
        """A signature is refused, in the words in which a wrong token is."""
        with pytest.raises(MercuryError, match=REFUSED):
            await self.tokens.check_signature(member, challenge, signature)


@pytest_twisted.async_yield_fixture
async def desk() -> AsyncIterator[Desk]:
    clock, store = Clock(), MemoryStore()
    await store.open()
    settings = schema.Config(token=schema.TokenSettings(ttl=TTL), limits=Limits(tokens_per_member=KEEP))
    cluster = make_chat(clock, store, settings).cluster
    yield Desk(Tokens(store, cluster, settings, clock.seconds), store, clock)
    await store.close()


def sign(secret: str, challenge: str = CHALLENGE) -> str:
    """What a client answers that has a token and the challenge's salt, iterations and keylen."""
    key = derive_key(secret, SALT, ITERATIONS, KEY_BYTES)
    signature: bytes = compute_wcs(key, challenge)
    return signature.decode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_stored_of_a_token_is_the_key_that_clients_derive_from_it(secret: str) -> None:
    assert b64encode(digest(secret)) == derive_key(secret, SALT, ITERATIONS, KEY_BYTES)
    assert len(digest(secret)) == KEY_BYTES


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("secret", ["", "\0", "\ud800", "a" * 100_000])
async def test_what_is_no_token_is_refused(desk: Desk, secret: str) -> None:
    await desk.tokens.make("ann")
    with pytest.raises(MercuryError, match=REFUSED):
        await desk.tokens.check(secret, "ann")


@pytest_twisted.ensureDeferred
async def test_each_token_of_a_member_signs(desk: Desk) -> None:
    secrets = [(await desk.tokens.make("ann"))[0] for _ in range(KEEP)]
    found = [await desk.accepts("ann", sign(secret)) for secret in secrets]
    expires = int(TTL * 1_000_000)
    assert found == [Token(digest(secret), "ann", expires) for secret in secrets]
    assert found == [await desk.tokens.check(secret, "ann") for secret in secrets]


@pytest_twisted.ensureDeferred
async def test_other_challenges_and_members_are_refused(desk: Desk) -> None:
    secret, _ = await desk.tokens.make("ann")
    await desk.tokens.make("ben")
    await desk.refuses("ann", sign(secret, CHALLENGE.replace('"session":1', '"session":2')))
    await desk.refuses("ann", sign(secret), challenge="")
    await desk.refuses("ben", sign(secret))
    await desk.refuses("Ann", sign(secret))
    await desk.refuses("nobody", sign(secret))
    await desk.accepts("ann", sign(secret))


@pytest_twisted.ensureDeferred
async def test_an_expired_token_does_not_sign_though_it_is_still_stored(desk: Desk) -> None:
    secret, _ = await desk.tokens.make("ann")
    longer, _ = await desk.tokens.make("ann", 2 * TTL)
    desk.clock.advance(TTL - 1)
    await desk.accepts("ann", sign(secret))
    desk.clock.advance(1)
    await desk.refuses("ann", sign(secret))
    await desk.accepts("ann", sign(longer))
    assert len(await desk.store.tokens("ann")) == 2


@pytest_twisted.ensureDeferred
async def test_a_revoked_token_does_not_sign(desk: Desk) -> None:
    first, second = [(await desk.tokens.make("ann"))[0] for _ in range(2)]
    assert await desk.tokens.revoke(first)
    await desk.refuses("ann", sign(first))
    await desk.accepts("ann", sign(second))
    assert await desk.tokens.revoke_all("ann") == 1
    await desk.refuses("ann", sign(second))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("signature", [" ", "=", "ü", "\ud800", "\0", "A" * 44, "A" * 100_000])
async def test_what_is_no_signature_is_refused(desk: Desk, signature: str) -> None:
    secret, _ = await desk.tokens.make("ann")
    await desk.refuses("ann", "")
    await desk.refuses("ann", signature)
    await desk.refuses("ann", sign(secret) + signature)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("member", ["", "a\0b", "\ud800", "a" * 191])
async def test_what_is_no_members_name_is_refused_before_the_store_is_asked(desk: Desk, member: str) -> None:
    await desk.store.close()  # who asked it now would hear that it is unavailable
    await desk.refuses(member, sign("any"))


@pytest_twisted.ensureDeferred
async def test_what_is_stored_is_no_token(desk: Desk) -> None:
    """Who has read the store can sign with what is there, but has nothing that counts as a token."""
    secret, _ = await desk.tokens.make("ann")
    for stored in (digest(secret).hex(), b64encode(digest(secret)).decode(), digest(secret).decode("latin-1")):
        with pytest.raises(MercuryError, match=REFUSED):
            await desk.tokens.check(stored, "ann")
        await desk.refuses("ann", sign(stored))
    key = b64encode(digest(secret))
    await desk.accepts("ann", compute_wcs(key, CHALLENGE).decode())
