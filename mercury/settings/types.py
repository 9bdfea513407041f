"""The kinds of values that settings have, and how their texts are checked. mercury/settings/schema.py declares the
settings.

What reads a list remembers the last ones that it has read: settings are looked at anew each time that they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

from msgspec import Meta, Struct

Network = IPv4Network | IPv6Network


class Section(Struct, rename="kebab", kw_only=True):
    """A section of the settings. Its fields have dashes in files and flags.

    Nothing but a reload (mercury/node/reload.py) changes a section after it was read: it assigns to the settings that
    are marked LIVE, in place. So code that uses such a setting keeps the section and reads the setting each time.
    """


class ConfigError(Exception):
    """A setting is wrong. One line that names the flag, variable or file and key, and says what is allowed."""

    def __init__(self, line: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A text that must not be shown: whatever prints it prints `***`. Only `.value` gives it away."""

    value: str

    def __repr__(self) -> str:
        return "***"


@lru_cache(maxsize=16)
def networks(text: str) -> tuple[Network, ...]:
    """The networks of a list such as `10.0.0.0/8, ::1`. An address alone is that one address. ValueError if wrong."""
    return tuple(_network(part.strip()) for part in text.split(","))


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("give IPv4 or IPv6 networks separated by commas, such as 10.0.0.0/8,::1/128") from None
    address = ip_address(text.partition("/")[0])
    raise ValueError(f"{text} is not a network: write {meant} for the whole network, or {address} for one address")


@lru_cache(maxsize=16)
def origins(text: str) -> tuple[str, ...]:
    """The origins of a list such as `https://chat.example,https://*.example.org`. ValueError if wrong."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(part == "*" or "://" in part for part in found):
        raise ValueError("give * for any origin, or origins separated by commas, such as https://chat.example")
    return found


@lru_cache(maxsize=16)
def methods(text: str) -> tuple[str, ...]:
    """The names of a list such as `ticket, wampcra`. ValueError if one is unknown."""
    found = tuple(part.strip() for part in text.split(","))
    if unknown := set(found) - {"ticket", "wampcra"}:
        raise ValueError(f"give ticket, wampcra or both, separated by a comma, not {', '.join(sorted(unknown))}")
    return found


@lru_cache(maxsize=16)
def api_keys(text: str) -> dict[str, bytes]:
    """The names and SHA-256 hashes of a list such as `shop:5e88…, crm:0b14…`; empty: none. ValueError if wrong."""
    found: dict[str, bytes] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, digest = part.partition(":")
        if not name or name in found or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("give NAME:HASH, each name once, separated by commas, as `mercury-keys api new` prints it")
        found[name] = bytes.fromhex(digest)
    return found


def addresses(text: str) -> tuple[tuple[str, int], ...]:
    """The hosts and ports of a list such as `10.0.0.1:26379, [::1]:26379`; empty: none. ValueError if wrong."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, _, port = part.rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError("give hosts with their ports separated by commas, such as 10.0.0.1:26379,10.0.0.2:26379")
        found.append((host.strip("[]"), int(port)))
    return tuple(found)


def _text(allowed: str, check: Callable[[str], object]) -> Meta:
    """Marks a text that has to satisfy `check`, which raises ValueError with what to give instead."""
    return Meta(extra={"allowed": allowed, "check": check})


#: Marks a setting that a reload changes while Mercury runs; the others are read at the start only.
LIVE = Meta(extra={"live": True})

Port = Annotated[int, Meta(ge=1, le=65535)]
ListeningPort = Annotated[int, Meta(ge=0, le=65535)]
NetworkList = Annotated[str, _text("networks or addresses, separated by commas", networks)]
OriginList = Annotated[str, _text("origins or *, separated by commas", origins)]
MethodList = Annotated[str, _text("ticket, wampcra or both, separated by a comma", methods)]
ApiKeyList = Annotated[str, _text("NAME:HASH, separated by commas, or nothing", api_keys)]
AddressList = Annotated[str, _text("hosts with ports, separated by commas, or nothing", addresses)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountOrNone = Annotated[int, Meta(ge=0, le=10_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=3600)]
