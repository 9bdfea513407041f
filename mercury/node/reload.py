"""What SIGHUP does: the settings are read again, and what may change while Mercury runs is changed.

All that is new is read and checked before anything is changed, so a mistake changes nothing. Then the sections of the
settings that the parts hold are changed in place: nobody has to be told, and no connection is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger, LogLevel

from mercury.errors import MercuryError
from mercury.settings.schema import Config
from mercury.settings.sources import SETTINGS, differences
from mercury.settings.types import ConfigError

if TYPE_CHECKING:  # who supervises workers needs none of it
    from mercury.interfaces import IStore
    from mercury.node.listeners import Listening

NOT_RELOADED: Final = "the reload failed and nothing has changed: {why}; fix it and reload again"

log = Logger()


def reload(config: Config, read: Callable[[], Config], store: IStore, listenings: Sequence[Listening]) -> None:
    """Make `config` what `read` gives now, as far as that can be, and log what changed and what did not.

    Certificates are read again too. If anything cannot be used all stays as it was, and the log says why.
    """
    certificates = [listening.certificate for listening in listenings if listening.certificate]
    try:
        new = read()
        contexts = [certificate.read() for certificate in certificates]
    except (ConfigError, MercuryError) as error:
        why = error.reason if isinstance(error, MercuryError) else str(error)
        log.error(NOT_RELOADED, why=why)
        return
    changed, waiting = adopt(config, new)
    for certificate, context in zip(certificates, contexts, strict=True):
        certificate.use(context)
    store.rooms_per_member = config.limits.rooms_per_member
    waiting += [
        f"the interface that {one.section}.address selects" for one in listenings if one.wanted() != one.endpoint
    ]
    log.emit(
        LogLevel.warn if waiting else LogLevel.info,
        "reloaded; changed: {changed}; certificates read: {certificates}; takes effect at the next start: {waiting}",
        changed=_list(changed),
        certificates=_list([certificate.name for certificate in certificates]),
        waiting=_list(waiting),
    )


def adopt(config: Config, new: Config) -> tuple[list[str], list[str]]:
    """Change what may change in `config`, in place, to what it is in `new`: the settings that were changed, and those
    that differ and have to wait."""
    changed, waiting = [], []
    for path, section, field, value in list(differences(config, new)):
        if SETTINGS[path].live:
            setattr(section, field, value)
            changed.append(path)
        else:
            waiting.append(path)
    return changed, waiting


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
