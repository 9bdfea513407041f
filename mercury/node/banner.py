"""What a person who starts Mercury in a terminal reads when it is ready."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from mercury import __version__
from mercury.node.endpoints import listeners_of
from mercury.settings.schema import WS_PATH, Config, storage_type


def banner(config: Config, addresses: Sequence[str]) -> str:
    """Where it listens, REST and WebSocket first, and what to do next."""
    kind = storage_type(config)
    where = f"{kind}, in {config.sqlite.path}" if kind == "sqlite" else kind
    urls = {}
    for (section, listener), address in zip(listeners_of(config).items(), addresses, strict=True):
        scheme = "ws" if section == "server.ws" else "http"
        urls[section] = f"{scheme}s://{address}" if listener.tls.cert else f"{scheme}://{address}"
    api, ws, ports = urls["server.api"], urls["server.ws"], [address.rpartition(":")[2] for address in addresses]
    flags = "" if ports[:2] == ["6009", "6010"] else f" --api.port={ports[0]} --ws.port={ports[1]}"
    if shutil.which("mercury-client"):
        client = f"mercury-client --member={{}}{flags}"
    else:  # a checkout, by `make run`
        client = "make client MEMBER={}" + (f' ARGS="{flags.strip()}"' if flags else "")
    pages = f"  goTalk      {urls['gotalk']}/   open to {config.gotalk.address}\n" if "gotalk" in urls else ""
    workers = f"  Workers     {config.workers}\n" if config.workers > 1 else ""
    return (
        f"\nMercury {__version__} is ready. Press Ctrl-C to stop it.\n\n"
        f"  REST        {api}   open to {config.server.api.address}\n"
        f"  WebSocket   {ws}{WS_PATH}   open to {config.server.ws.address}\n"
        f"{pages}"
        f"  Store       {where}\n"
        f"{workers}\n"
        f"Chat in two other terminals:\n\n"
        f"  {client.format(1)}\n"
        f"  {client.format(2)}\n\n"
        f"or get a token:  curl {api}/api/token/1\n"
    )


def shown(host: Any) -> str:
    """An address that a person can paste."""
    if not hasattr(host, "port"):
        return str(getattr(host, "name", host))
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.host, host.host)  # noqa: S104 - shown, not bound
    return f"{'[' + name + ']' if ':' in name and '[' not in name else name}:{host.port}"
