"""Every setting of Mercury, declared once: its name, type, range, default and meaning.

From these Structs, and those in mercury/settings/limits.py and config_stores.py, come the checks and the reading
(mercury/settings/sources.py), the flags and `--help` (mercury/settings/flags.py), and etc/mercury.toml with the table
in docs/configuration.md (mercury/reference/settings.py). A Struct is a section and its docstring the section's
heading; a field is a setting. Outside, `Ws.frame_bytes` would be spelt `frame-bytes`.
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


class Tls(Section, frozen=True):
    """TLS on this port, 1.2 and later."""

    cert: Annotated[
        str,
        Meta(description="A file with the certificate and those that lead up to its authority (PEM). Empty: no TLS."),
    ] = ""
    key: Annotated[str, Meta(description="The file with its key (PEM), unencrypted.")] = ""


class Api(Section, frozen=True):
    """The REST API, for the application's backend."""

    address: Annotated[NetworkList, LIVE, Meta(description="Who may call the REST API.")] = "127.0.0.1/32"
    port: Annotated[ListeningPort, Meta(description="The REST API's TCP port. 0 takes any free one.")] = 6009
    endpoint: Annotated[
        str,
        Meta(
            description="A Twisted endpoint in place of the port, such as haproxy:tcp:6009, unix:/run/mercury/api "
            "or haproxy:systemd:domain=INET:index=0. A socket that systemd passes for the port is taken without it."
        ),
    ] = ""
    proxies: Annotated[
        NetworkList,
        LIVE,
        Meta(
            description="With a haproxy: endpoint: who may tell the REST API, by the PROXY protocol, whom they serve."
        ),
    ] = "127.0.0.1/32,::1/128"
    keys: Annotated[
        ApiKeyList,
        LIVE,
        Meta(
            description="Who may call the REST API, beside being on its list: the keys, of which callers have to show "
            "one, each as the NAME:HASH that `mercury-keys api new NAME` prints. Empty: no key is asked for."
        ),
    ] = ""
    connections: Annotated[CountOrNone, LIVE, Meta(description="Connections at a time. 0: no limit.")] = 1000
    tls: Tls = field(default_factory=Tls)


class Ws(Section, frozen=True):
    """The WebSocket server, for the clients."""

    address: Annotated[NetworkList, LIVE, Meta(description="Who may connect by WebSocket.")] = "0.0.0.0/0"
    port: Annotated[ListeningPort, Meta(description="The WebSocket server's TCP port. 0 takes any free one.")] = 6010
    endpoint: Annotated[
        str,
        Meta(description="A Twisted endpoint in place of the port, as for the REST API."),
    ] = ""
    proxies: Annotated[
        NetworkList,
        LIVE,
        Meta(description="With a haproxy: endpoint: who may tell it, by the PROXY protocol, whom they serve."),
    ] = "127.0.0.1/32,::1/128"
    origins: Annotated[
        OriginList,
        LIVE,
        Meta(
            description="The web pages whose scripts may connect: origins separated by commas, with * for any part, "
            "such as https://chat.example,https://*.example.org. Programs that send no Origin are not concerned."
        ),
    ] = "*"
    compression: Annotated[
        bool,
        LIVE,
        Meta(description="Compress each message (permessage-deflate). Costs memory and time for each connection."),
    ] = False
    tls: Tls = field(default_factory=Tls)


class Server(Section, frozen=True):
    """What Mercury listens on."""

    api: Api = field(default_factory=Api)
    ws: Ws = field(default_factory=Ws)


class Wamp(Section, frozen=True):
    """WAMP, for Autobahn's clients, on the WebSocket port."""

    realm: Annotated[str, LIVE, Meta(min_length=1, description="The realm that clients join.")] = "mercury"
    authmethods: Annotated[
        MethodList,
        LIVE,
        Meta(
            description="How clients log in: ticket, wampcra or both, separated by a comma. With wampcra the token is "
            "not sent; but whoever can read the store can log in by it with what is kept of tokens."
        ),
    ] = "ticket,wampcra"


class Gotalk(Section, frozen=True):
    """goTalk's door: accounts, friends and direct messages over plain HTTP."""

    enabled: Annotated[bool, Meta(description="Open this door.")] = False
    address: Annotated[NetworkList, LIVE, Meta(description="Who may connect to it.")] = "0.0.0.0/0"
    port: Annotated[ListeningPort, Meta(description="Its TCP port. 0 takes any free one.")] = 9000
    endpoint: Annotated[
        str,
        Meta(description="A Twisted endpoint in place of the port, as for the REST API."),
    ] = ""
    proxies: Annotated[
        NetworkList,
        LIVE,
        Meta(description="With a haproxy: endpoint: who may tell it, by the PROXY protocol, whom they serve."),
    ] = "127.0.0.1/32,::1/128"
    secure: Annotated[
        bool,
        LIVE,
        Meta(
            description="Cookies are for https:// only. For a proxy that speaks TLS to the browsers; an ssl: endpoint "
            "needs no telling."
        ),
    ] = False
    connections: Annotated[CountOrNone, LIVE, Meta(description="Connections at a time. 0: no limit.")] = 10_000
    connections_per_address: Annotated[
        CountOrNone, LIVE, Meta(description="Connections at a time from one address. 0: no limit.")
    ] = 0
    registration: Annotated[
        Literal["open", "invite", "closed"],
        LIVE,
        Meta(description="Who may make an account: everybody, those who know gotalk.invite, or nobody."),
    ] = "open"
    invite: Annotated[Secret, LIVE, Meta(description="What the invited give as the field invite.")] = Secret("")
    password_least: Annotated[
        int,
        LIVE,
        Meta(ge=1, le=256, description="The fewest characters of a new password. Longer than 1,024 bytes is none."),
    ] = 8
    friends: Annotated[Count, LIVE, Meta(description="Friends that one person may have.")] = 1000
    logins_per_minute: Annotated[
        CountOrNone,
        LIVE,
        Meta(description="Wrong passwords a minute, for one name and from one address. 0: any number."),
    ] = 10
    registrations_per_minute: Annotated[
        CountOrNone, LIVE, Meta(description="Tries to register a minute from one address. 0: any number.")
    ] = 10
    tls: Tls = field(default_factory=Tls)


class Drain(Section, frozen=True):
    """How Mercury stops."""

    seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(
            description="How long closing the clients' connections may take, a few at a time, so that they do not all "
            "come back at once: 200 a second, or faster if there are too many for that."
        ),
    ] = 5.0


class Log(Section, frozen=True):
    """The log: one line an event."""

    format: Annotated[Literal["json", "logfmt"], LIVE, Meta(description="How a line is written.")] = "json"
    level: Annotated[
        Literal["debug", "info", "warn", "error"], LIVE, Meta(description="The least important events that are logged.")
    ] = "info"


class Token(Section, frozen=True):
    """Tokens, which clients log in with."""

    ttl: Annotated[
        int,
        LIVE,
        Meta(ge=1, le=3_155_760_000, description="How long a token is valid, in seconds, if nothing else is asked."),
    ] = 86400


class Config(Section, frozen=True):
    """Mercury as a whole."""  # `Config()` holds the defaults; mercury.settings.load reads the rest

    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="How many processes serve, each on a core of its own, as one service on the same ports. More "
            "than one need a store that nodes can share: Redis, or MySQL and Redis. docs/scaling.md says more.",
        ),
    ] = 1
    server: Server = field(default_factory=Server)
    wamp: Wamp = field(default_factory=Wamp)
    gotalk: Gotalk = field(default_factory=Gotalk)
    drain: Drain = field(default_factory=Drain)
    log: Log = field(default_factory=Log)
    storage: Storage = field(default_factory=Storage)
    sqlite: Sqlite = field(default_factory=Sqlite)
    mysql: Mysql = field(default_factory=Mysql)
    redis: Redis = field(default_factory=Redis)
    retention: Retention = field(default_factory=Retention)
    crypto: Crypto = field(default_factory=Crypto)
    token: Token = field(default_factory=Token)
    limits: Limits = field(default_factory=Limits)


def check(config: Config) -> None:
    """Whether the settings go together, as far as each alone does not show that. ConfigError if they do not."""
    kind = storage_type(config)
    if config.workers > 1 and not has_bus(config):
        lacks = "has no Redis to join workers" if kind == "mysql" else "cannot be shared by workers"
        need = "redis.host" if kind == "mysql" else "redis.host, or mysql.host and redis.host"
        raise ConfigError(f"workers is {config.workers}, but the store, {kind}, {lacks}: set {need}, or workers to 1")
    sections: dict[str, Api | Ws | Gotalk] = {
        "server.api": config.server.api,
        "server.ws": config.server.ws,
        "gotalk": config.gotalk,
    }
    for name, listener in sections.items():
        if bool(listener.tls.cert) != bool(listener.tls.key):
            raise ConfigError(f"{name}.tls.cert and {name}.tls.key go together: give both or none")
    if config.gotalk.registration == "invite" and not config.gotalk.invite.value:
        raise ConfigError("gotalk.registration is invite, but gotalk.invite is not set")


def storage_type(config: Config) -> Literal["memory", "sqlite", "mysql", "redis"]:
    """The store that was chosen, by name or by a host. ConfigError if it needs a host and has none."""
    hosts = {"mysql": config.mysql.host, "redis": config.redis.host or config.redis.sentinels}
    if not hosts.get(config.storage.type, "is not asked for"):
        raise ConfigError(f"storage.type is {config.storage.type}, but {config.storage.type}.host is not set")
    if config.storage.type:
        return config.storage.type
    if hosts["mysql"]:
        return "mysql"
    return "redis" if hosts["redis"] else "sqlite"


def has_bus(config: Config) -> bool:
    """Whether nodes that share the store hear of each other: through a Redis."""
    return storage_type(config) in ("mysql", "redis") and bool(config.redis.host or config.redis.sentinels)
