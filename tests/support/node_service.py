"""A node's service without twistd: MercuryService around a core, listening where a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mercury.core.parts import Chat
from mercury.gotalk.passwords import Passwords
from mercury.net.siblings import Siblings
from mercury.node import build
from mercury.node.listeners import Listening
from mercury.node.service import MercuryService
from mercury.rest.readiness import Readiness
from mercury.settings.schema import Config


def service_of(
    reactor: Any,
    chat: Chat,
    config: Config,
    read: Callable[[], Config] | None = None,
    listenings: Sequence[Listening] = (),
) -> MercuryService:
    """A service that is alone. `read`: what a reload reads; the same settings again unless given."""
    siblings = Siblings(reactor)
    return MercuryService(
        reactor,
        chat,
        config,
        listenings=listenings,
        readiness=Readiness(chat, siblings),
        siblings=siblings,
        read=read or (lambda: config),
    )


def listening_service(
    reactor: Any, chat: Chat, config: Config, read: Callable[[], Config], passwords: Passwords
) -> MercuryService:
    """The same, with all the listeners that the settings ask for, goTalk's among them."""
    siblings = Siblings(reactor)
    readiness = Readiness(chat, siblings)
    return MercuryService(
        reactor,
        chat,
        config,
        listenings=list(build.make_listenings(reactor, chat, config, readiness, siblings, passwords, {})),
        readiness=readiness,
        siblings=siblings,
        passwords=passwords,
        read=read,
    )
