"""Every setting of Mercury, declared once: its name, type, range, default and meaning.

From these Structs come the checks and the reading (mercury/settings.py), the flags and `--help` (mercury/options.py),
and etc/mercury.toml with the table in docs/configuration.md (mercury/reference.py). A Struct is a section and its
docstring the section's heading; a field is a setting. Outside, `Ws.frame_bytes` would be spelt `frame-bytes`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from mercury.config_types import (
    LIVE,
    AddressList,
    ApiKeyList,
    ConfigError,
    Count,
    CountOrNone,
    ListeningPort,
    MethodList,
    NetworkList,
    OriginList,
    Port,
    Seconds,
    SecondsOrNone,
    Secret,
)


class Section(Struct, frozen=True, rename="kebab", kw_only=True):
    """What all sections have in common: only a reload changes one after it was read, and names have dashes outside.

    A reload (mercury/reloading.py) changes what is marked LIVE, in the very sections that were read at the start. So
    whoever goes by such a setting keeps its section and looks at it each time, and need not be told.
    """


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


class Storage(Section, frozen=True):
    """Where rooms, messages, members and tokens are kept."""

    type: Annotated[
        Literal["", "memory", "sqlite", "mysql", "redis"],
        Meta(
            description="The store. Empty: mysql if mysql.host is set, else redis if redis.host is set, else sqlite. "
            "What is in memory is gone when Mercury stops."
        ),
    ] = ""


class Sqlite(Section, frozen=True):
    """The SQLite store."""

    path: Annotated[
        str, Meta(min_length=1, description="The database file. It and its directory are made if they are missing.")
    ] = "var/mercury.sqlite"


class Mysql(Section, frozen=True):
    """The MySQL or MariaDB store."""

    host: Annotated[str, Meta(description="The server's name or address. Setting it chooses this store.")] = ""
    port: Annotated[Port, Meta(description="The server's TCP port.")] = 3306
    user: Annotated[str, Meta(description="Whom to log in as.")] = "root"
    password: Annotated[Secret, Meta(description="The user's password.")] = Secret("")
    database: Annotated[str, Meta(min_length=1, description="The database. It is made if it is missing.")] = "mercury"
    connections: Annotated[
        int, Meta(ge=4, le=1000, description="Connections to the server: one appends, two write, the others read.")
    ] = 8
    tls: Annotated[
        bool, Meta(description="Use TLS, and only with a server whose certificate is trusted and is for mysql.host.")
    ] = False
    tls_ca: Annotated[
        str, Meta(description="With TLS: a file of certificates to trust (PEM). Empty: those that the system trusts.")
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(description="With TLS: a file with a certificate to show the server (PEM), if it asks for one."),
    ] = ""
    tls_key: Annotated[str, Meta(description="The file with the key of that certificate (PEM), unencrypted.")] = ""
    connect_seconds: Annotated[Seconds, Meta(description="How long connecting may take.")] = 3.0
    write_seconds: Annotated[Seconds, Meta(description="How long sending a statement may take.")] = 5.0
    read_seconds: Annotated[
        Annotated[float, Meta(ge=3, le=3600)],
        Meta(description="How long the server may take to answer. A call that takes longer than all three fails."),
    ] = 5.0


class Redis(Section, frozen=True):
    """The Redis store, and what nodes hear of each other by."""

    host: Annotated[
        str,
        Meta(
            description="The server's name or address. Setting it, or redis.sentinels, chooses the Redis store, unless "
            "mysql.host is set."
        ),
    ] = ""
    port: Annotated[Port, Meta(description="The server's TCP port.")] = 6379
    password: Annotated[Secret, Meta(description="The server's password.")] = Secret("")
    db: Annotated[int, Meta(ge=0, le=65535, description="The number of the database.")] = 0
    sentinels: Annotated[
        AddressList,
        Meta(
            description="Sentinels, in place of redis.host and redis.port: they are asked where the master is, such as "
            "10.0.0.1:26379,10.0.0.2:26379."
        ),
    ] = ""
    service: Annotated[str, Meta(min_length=1, description="The master's name among the sentinels.")] = "mymaster"
    tls: Annotated[
        bool,
        Meta(
            description="Use TLS with the server and the sentinels, and only with those whose certificate is trusted "
            "and is for redis.host, or for what the sentinels name."
        ),
    ] = False
    tls_ca: Annotated[
        str, Meta(description="With TLS: a file of certificates to trust (PEM). Empty: those that the system trusts.")
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(description="With TLS: a file with a certificate to show the server (PEM), if it asks for one."),
    ] = ""
    tls_key: Annotated[str, Meta(description="The file with the key of that certificate (PEM), unencrypted.")] = ""
    connect_seconds: Annotated[Seconds, Meta(description="How long connecting and logging in may take.")] = 3.0
    command_seconds: Annotated[
        Seconds,
        Meta(description="How long Redis may take to answer. Then it is unavailable, and connected to anew."),
    ] = 5.0


class Retention(Section, frozen=True):
    """How much of it the Redis store keeps, in memory."""

    entries: Annotated[
        CountOrNone,
        Meta(
            description="Entries kept of each room's log, and up to a hundred more. 0: all. Clients that had not "
            "received what is no longer kept start afresh."
        ),
    ] = 0


class Crypto(Section, frozen=True):
    """Encryption of what is stored."""

    keys: Annotated[
        str,
        Meta(
            description="The file with the keys that message texts are encrypted with in the store, made by "
            "`mercury-keys new FILE`: the first key encrypts, all decrypt. Empty: texts are stored in clear. "
            "docs/encryption.md says more."
        ),
    ] = ""


class Token(Section, frozen=True):
    """Tokens, which clients log in with."""

    ttl: Annotated[
        int,
        LIVE,
        Meta(ge=1, le=3_155_760_000, description="How long a token is valid, in seconds, if nothing else is asked."),
    ] = 86400


class Limits(Section, frozen=True):
    """What one client may take, so that none harms the others."""

    frame_bytes: Annotated[
        int,
        LIVE,
        Meta(
            ge=0, le=16_777_216, description="The longest WebSocket message a client may send, in bytes. 0: no limit."
        ),
    ] = 65536
    text_bytes: Annotated[
        int,
        LIVE,
        Meta(ge=0, le=16_777_216, description="The longest text of a chat message, in bytes of UTF-8. 0: no limit."),
    ] = 16384
    body_bytes: Annotated[
        int, LIVE, Meta(ge=128, le=67_108_864, description="The longest body of a REST request, in bytes.")
    ] = 1_048_576
    handshake_seconds: Annotated[
        SecondsOrNone, LIVE, Meta(description="How long a client may take to connect and log in. 0: no limit.")
    ] = 5.0
    ping_seconds: Annotated[
        SecondsOrNone,
        LIVE,
        Meta(description="How often a client is pinged. It is gone when it misses two in a row. 0: never pinged."),
    ] = 25.0
    drain_seconds: Annotated[
        Seconds, LIVE, Meta(description="A client that for so long takes nothing of what is sent to it is dropped.")
    ] = 60.0
    connections: Annotated[CountOrNone, LIVE, Meta(description="WebSocket connections at a time. 0: no limit.")] = (
        100_000
    )
    connections_per_address: Annotated[
        CountOrNone, LIVE, Meta(description="WebSocket connections at a time from one address. 0: no limit.")
    ] = 0
    connections_per_member: Annotated[
        CountOrNone, LIVE, Meta(description="WebSocket connections at a time of one member. 0: no limit.")
    ] = 64
    messages_per_second: Annotated[
        float, LIVE, Meta(ge=0, le=1_000_000, description="How many messages a second a member may send. 0: no limit.")
    ] = 0.0
    burst: Annotated[
        CountOrNone,
        LIVE,
        Meta(
            description="How many messages a member may send at once when there is a limit for each second. "
            "0: as many as in two seconds."
        ),
    ] = 0
    rooms_per_member: Annotated[
        CountOrNone, LIVE, Meta(description="Rooms that one member may be in. 0: no limit.")
    ] = 1000
    tokens_per_member: Annotated[
        Count, LIVE, Meta(description="Valid tokens of one member. Beyond that the one that expires first goes.")
    ] = 100
    devices_per_member: Annotated[
        Count,
        LIVE,
        Meta(description="Devices of one member whose place in the rooms is kept. The last active ones stay."),
    ] = 32
    device_days: Annotated[
        int, LIVE, Meta(ge=1, le=36500, description="A device that received nothing for so many days is forgotten.")
    ] = 90
    json_depth: Annotated[int, LIVE, Meta(ge=4, le=200, description="How deep JSON from a client may be nested.")] = 32
    history_page: Annotated[
        int, LIVE, Meta(ge=1, le=1000, description="Messages in one answer to a history request.")
    ] = 100
    signals_room: Annotated[
        int,
        LIVE,
        Meta(
            ge=0,
            le=10_000_000,
            description="Rooms with more connections than this hear nothing of others' coming, going, typing and "
            "reading. 0: no limit.",
        ),
    ] = 256


class Config(Section, frozen=True):
    """All of it. `Config()` holds the defaults; mercury.settings.load reads the rest."""

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
    storage_type(config)
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
