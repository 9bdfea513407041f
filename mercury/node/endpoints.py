"""Where a listener listens, by its settings, as one of Twisted's endpoint strings; and why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import Final

from mercury.settings.schema import Config, ListenerSettings
from mercury.settings.types import networks

BACKLOG: Final = 1024  # connections that wait to be accepted: Twisted's 50 overflow when all clients come back at once


def listeners_of(config: Config) -> dict[str, ListenerSettings]:
    """The settings of all that is to be listened on, by their sections."""
    found: dict[str, ListenerSettings] = {"server.api": config.server.api, "server.ws": config.server.ws}
    return {**found, "gotalk": config.gotalk} if config.gotalk.enabled else found


def endpoint_of(listener: ListenerSettings, passed: Mapping[int, str] = MappingProxyType({})) -> str:
    """The endpoint string of a listener: its own, or that of the socket that systemd has passed for its port (`passed`
    has them by ports), or its port on as few interfaces as its address list needs."""
    if listener.endpoint:
        return listener.endpoint
    if listener.port in passed:
        return passed[listener.port]
    allowed = networks(listener.address)
    if all(network.is_loopback for network in allowed):
        interface = "127.0.0.1" if any(isinstance(n, IPv4Network) for n in allowed) else "\\:\\:1"
    else:
        interface = "" if all(isinstance(n, IPv4Network) for n in allowed) else "\\:\\:"
    return f"tcp:{listener.port}:backlog={BACKLOG}" + (f":interface={interface}" if interface else "")


def warnings_of_sockets(passed: Mapping[int, str], endpoints: set[str]) -> list[str]:
    """Which of the sockets that systemd passes none of these endpoints takes: who connects there waits for ever."""
    if any("systemd:" in endpoint for endpoint in endpoints - set(passed.values())):
        return []  # some are taken by name or number
    left = [port for port, endpoint in passed.items() if endpoint not in endpoints]
    return [f"systemd passes a socket for port {port} (ListenStream=), but no setting uses that port" for port in left]


def cannot_be(section: str, endpoint: str, why: Exception) -> str:
    """That an endpoint string makes no sense, in one line."""
    return f"--{section}.endpoint={endpoint}: {why}"


def cannot_listen(section: str, endpoint: str, own: str, error: BaseException | None) -> str:
    """That nobody can listen there, in one line. `own`: the endpoint that the settings name, if they do."""
    why = getattr(error, "socketError", None) or error
    reason = getattr(why, "strerror", None) or str(why)
    flag = "endpoint" if endpoint == own else "port"
    return f"--{section}.{flag}: cannot listen on {endpoint}: {reason}"
