"""Every setting of Mercury, declared once: its name, type, range, default and meaning.

From these Structs, and those in mercury/settings/limits.py and engines.py, come the checks and the reading
(mercury/settings/sources.py), the flags and `--help` (mercury/settings/flags.py), and etc/mercury.toml with the table
in docs/configuration.md (mercury/reference/settings.py). A Struct is a section and its docstring the section's
heading; a field is a setting. Outside, `Limits.frame_bytes` is spelt `limits.frame-bytes`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, field

from mercury.settings.engines import Crypto, Mysql, Redis, Retention, Sqlite, Storage
from mercury.settings.limits import Limits
from mercury.settings.types import (
    LIVE,
    ApiKeyList,
    ConfigError,
    Count,
    CountOrNone,
    ListeningPort,
    MethodList,
    NetworkList,
    OriginList,
    SecondsOrNone,
    Secret,
    Section,
)

WS_PATH: Final = "/ws/connect"  # where clients connect by WebSocket

# What the sections of listeners have in common.
Endpoint = Annotated[str, Meta(description="A Twisted endpoint to use instead of the port, as for the REST API.")]
Proxies = Annotated[
    NetworkList,
    LIVE,
    Meta(description="With a haproxy: endpoint: the proxies whose PROXY header (the client's address) is accepted."),
]
Connections = Annotated[CountOrNone, LIVE, Meta(description="Maximum number of connections. 0: no limit.")]
THIS_MACHINE: Final = "127.0.0.1/32,::1/128"


class Tls(Section):
    """TLS on this port, 1.2 and later."""

    cert: Annotated[
        str,
        Meta(description="A PEM file with the certificate, then its intermediate certificates. Empty: no TLS."),
    ] = ""
    key: Annotated[str, Meta(description="A PEM file with the certificate's private key, unencrypted.")] = ""


class Api(Section):
    """The REST API, for your application's backend."""

    address: Annotated[NetworkList, LIVE, Meta(description="The networks that may call the REST API.")] = "127.0.0.1/32"
    port: Annotated[ListeningPort, Meta(description="The REST API's TCP port. 0: any free port.")] = 6009
    endpoint: Annotated[
        str,
        Meta(
            description="A Twisted endpoint to use instead of the port, such as haproxy:tcp:6009, "
            "unix:/run/mercury/api or haproxy:systemd:domain=INET:index=0. Not needed for a socket that systemd "
            "passes for the port."
        ),
    ] = ""
    proxies: Proxies = THIS_MACHINE
    keys: Annotated[
        ApiKeyList,
        LIVE,
        Meta(
            description="API keys, each as the NAME:HASH that `mercury-keys api new NAME` prints. Callers must send "
            "one of them and also be on the address list. Empty: no key is required."
        ),
    ] = ""
    connections: Connections = 1000
    tls: Tls = field(default_factory=Tls)


class Ws(Section):
    """The WebSocket server, for your users' clients."""

    address: Annotated[NetworkList, LIVE, Meta(description="The networks that may connect by WebSocket.")] = "0.0.0.0/0"
    port: Annotated[ListeningPort, Meta(description="The WebSocket server's TCP port. 0: any free port.")] = 6010
    endpoint: Endpoint = ""
    proxies: Proxies = THIS_MACHINE
    origins: Annotated[
        OriginList,
        LIVE,
        Meta(
            description="The web origins whose pages may connect, separated by commas, with * as a wildcard, such as "
            "https://chat.example,https://*.example.org. Clients that send no Origin header are always let in."
        ),
    ] = "*"
    compression: Annotated[
        bool,
        LIVE,
        Meta(description="Compress messages (permessage-deflate). Costs memory and CPU time for each connection."),
    ] = False
    tls: Tls = field(default_factory=Tls)


class Server(Section):
    """The ports that Mercury listens on."""

    api: Api = field(default_factory=Api)
    ws: Ws = field(default_factory=Ws)


class Wamp(Section):
    """WAMP, for Autobahn's clients, on the WebSocket port."""

    realm: Annotated[str, LIVE, Meta(min_length=1, description="The realm that clients join.")] = "mercury"
    authmethods: Annotated[
        MethodList,
        LIVE,
        Meta(
            description="How clients may log in: ticket, wampcra or both, separated by a comma. wampcra does not send "
            "the token, but anyone who can read the store can log in with the keys kept there for it."
        ),
    ] = "ticket,wampcra"


class Gotalk(Section):
    """The goTalk API: accounts, friends and direct messages over plain HTTP."""

    enabled: Annotated[bool, Meta(description="Serve the goTalk API and its pages.")] = False
    address: Annotated[NetworkList, LIVE, Meta(description="The networks that may connect to it.")] = "0.0.0.0/0"
    port: Annotated[ListeningPort, Meta(description="Its TCP port. 0: any free port.")] = 9000
    endpoint: Endpoint = ""
    proxies: Proxies = THIS_MACHINE
    secure: Annotated[
        bool,
        LIVE,
        Meta(
            description="Mark cookies as https:// only. Set it when a proxy does TLS for the browsers; with an ssl: "
            "endpoint this is automatic."
        ),
    ] = False
    connections: Connections = 10_000
    connections_per_address: Annotated[
        CountOrNone, LIVE, Meta(description="Maximum number of connections from one address. 0: no limit.")
    ] = 0
    registration: Annotated[
        Literal["open", "invite", "closed"],
        LIVE,
        Meta(
            description="Who may register: anyone (open), anyone who knows gotalk.invite (invite), or no one (closed)."
        ),
    ] = "open"
    invite: Annotated[Secret, LIVE, Meta(description="The invitation code that people send in the field invite.")] = (
        Secret("")
    )
    password_least: Annotated[
        int,
        LIVE,
        Meta(
            ge=1, le=256, description="The minimum length of a new password, in characters. The maximum is 1,024 bytes."
        ),
    ] = 8
    friends: Annotated[Count, LIVE, Meta(description="Maximum number of friends of one user.")] = 1000
    logins_per_minute: Annotated[
        CountOrNone,
        LIVE,
        Meta(description="Wrong passwords per minute, for one name and from one address. 0: no limit."),
    ] = 10
    registrations_per_minute: Annotated[
        CountOrNone, LIVE, Meta(description="Registration attempts per minute from one address. 0: no limit.")
    ] = 10
    tls: Tls = field(default_factory=Tls)


ListenerSettings = Api | Ws | Gotalk


class Drain(Section):
    """How Mercury stops."""

    seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(
            description="How long a stop may take to close the clients' connections. They are closed a few at a time, "
            "200 a second (faster if there are too many for that), so that clients do not all reconnect at once."
        ),
    ] = 5.0


class LogSettings(Section):
    """The log: one line per event."""

    format: Annotated[Literal["json", "logfmt"], LIVE, Meta(description="The format of a line.")] = "json"
    level: Annotated[
        Literal["debug", "info", "warn", "error"], LIVE, Meta(description="The lowest level that is logged.")
    ] = "info"


class TokenSettings(Section):
    """Tokens, which clients log in with."""

    ttl: Annotated[
        int,
        LIVE,
        Meta(
            ge=1,
            le=3_155_760_000,
            description="How long a token is valid, in seconds, unless the call that makes it says otherwise.",
        ),
    ] = 86400


class Config(Section):
    """Mercury as a whole."""  # `Config()` holds the defaults; mercury.settings.load reads the rest

    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="How many processes serve the same ports as one service, each on its own core. More than one "
            "needs a store that nodes can share: Redis, or MySQL with Redis. See docs/scaling.md.",
        ),
    ] = 1
    server: Server = field(default_factory=Server)
    wamp: Wamp = field(default_factory=Wamp)
    gotalk: Gotalk = field(default_factory=Gotalk)
    drain: Drain = field(default_factory=Drain)
    log: LogSettings = field(default_factory=LogSettings)
    storage: Storage = field(default_factory=Storage)
    sqlite: Sqlite = field(default_factory=Sqlite)
    mysql: Mysql = field(default_factory=Mysql)
    redis: Redis = field(default_factory=Redis)
    retention: Retention = field(default_factory=Retention)
    crypto: Crypto = field(default_factory=Crypto)
    token: TokenSettings = field(default_factory=TokenSettings)
    limits: Limits = field(default_factory=Limits)


def check(config: Config) -> None:
    """Whether the settings go together, as far as each alone does not show that. ConfigError if they do not."""
    kind = storage_type(config)
    if config.workers > 1 and not has_bus(config):
        lacks = "has no Redis to connect the workers" if kind == "mysql" else "cannot be shared by workers"
        need = "redis.host" if kind == "mysql" else "redis.host, or mysql.host and redis.host"
        raise ConfigError(f"workers is {config.workers}, but the store, {kind}, {lacks}: set {need}, or workers to 1")
    sections: dict[str, ListenerSettings] = {
        "server.api": config.server.api,
        "server.ws": config.server.ws,
        "gotalk": config.gotalk,
    }
    for name, listener in sections.items():
        if bool(listener.tls.cert) != bool(listener.tls.key):
            raise ConfigError(f"{name}.tls.cert and {name}.tls.key belong together: set both or neither")
    if config.gotalk.registration == "invite" and not config.gotalk.invite.value:
        raise ConfigError("gotalk.registration is invite, but gotalk.invite is not set")


def storage_type(config: Config) -> Literal["memory", "sqlite", "mysql", "redis"]:
    """The store that was chosen, by name or by a host. ConfigError if it needs a host and has none."""
    hosts = {"mysql": config.mysql.host, "redis": config.redis.host or config.redis.sentinels}
    if not hosts.get(config.storage.type, "not selected"):
        raise ConfigError(f"storage.type is {config.storage.type}, but {config.storage.type}.host is not set")
    if config.storage.type:
        return config.storage.type
    if hosts["mysql"]:
        return "mysql"
    return "redis" if hosts["redis"] else "sqlite"


def has_bus(config: Config) -> bool:
    """Whether nodes that share the store hear of each other: through a Redis."""
    return storage_type(config) in ("mysql", "redis") and bool(config.redis.host or config.redis.sentinels)
