"""The settings of where things are kept: which store, and the engines' own. A part of mercury/settings/schema.py."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mercury.settings.types import AddressList, CountOrNone, Port, Seconds, Secret, Section

# What TLS to an engine asks for, whichever it is.
TrustedFile = Annotated[
    str, Meta(description="With TLS: a file of certificates to trust (PEM). Empty: those that the system trusts.")
]
ShownFile = Annotated[
    str, Meta(description="With TLS: a file with a certificate to show the server (PEM), if it asks for one.")
]
ShownKeyFile = Annotated[str, Meta(description="The file with the key of that certificate (PEM), unencrypted.")]


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
    tls_ca: TrustedFile = ""
    tls_cert: ShownFile = ""
    tls_key: ShownKeyFile = ""
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
    tls_ca: TrustedFile = ""
    tls_cert: ShownFile = ""
    tls_key: ShownKeyFile = ""
    connect_seconds: Annotated[
        Seconds, Meta(description="How long each step of connecting may take: reaching it, TLS, logging in.")
    ] = 3.0
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
