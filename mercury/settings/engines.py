"""The settings of where things are kept: which store, and the engines' own. A part of mercury/settings/schema.py."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mercury.settings.types import AddressList, CountOrNone, Port, Seconds, Secret, Section

# The TLS settings that every engine has.
TrustedFile = Annotated[
    str, Meta(description="With TLS: a PEM file with the authorities to trust. Empty: those that the system trusts.")
]
ShownFile = Annotated[
    str, Meta(description="With TLS: a PEM file with a client certificate, if the server requires one.")
]
ShownKeyFile = Annotated[str, Meta(description="A PEM file with the private key of that certificate, unencrypted.")]


class Storage(Section):
    """Where rooms, messages, members and tokens are kept."""

    type: Annotated[
        Literal["", "memory", "sqlite", "mysql", "redis"],
        Meta(
            description="The store. Empty: mysql if mysql.host is set, else redis if redis.host is set, else sqlite. "
            "The memory store is empty after every start."
        ),
    ] = ""


class Sqlite(Section):
    """The SQLite store."""

    path: Annotated[
        str, Meta(min_length=1, description="The database file. It and its directory are created if they are missing.")
    ] = "var/mercury.sqlite"


class Mysql(Section):
    """The MySQL or MariaDB store."""

    host: Annotated[str, Meta(description="The server's name or address. Setting it chooses this store.")] = ""
    port: Annotated[Port, Meta(description="The server's TCP port.")] = 3306
    user: Annotated[str, Meta(description="The user to log in as.")] = "root"
    password: Annotated[Secret, Meta(description="The user's password.")] = Secret("")
    database: Annotated[str, Meta(min_length=1, description="The database. It is created if it is missing.")] = (
        "mercury"
    )
    connections: Annotated[
        int,
        Meta(
            ge=4,
            le=1000,
            description="Connections to the server: one stores messages, two do other writes, the rest read.",
        ),
    ] = 8
    tls: Annotated[
        bool, Meta(description="Require TLS, with a server certificate that is trusted and valid for mysql.host.")
    ] = False
    tls_ca: TrustedFile = ""
    tls_cert: ShownFile = ""
    tls_key: ShownKeyFile = ""
    connect_seconds: Annotated[Seconds, Meta(description="How long connecting may take.")] = 3.0
    write_seconds: Annotated[Seconds, Meta(description="How long sending a statement may take.")] = 5.0
    read_seconds: Annotated[
        Annotated[float, Meta(ge=3, le=3600)],
        Meta(description="How long the server may take to answer. A call fails after the sum of all three."),
    ] = 5.0


class Redis(Section):
    """The Redis store, and the bus between nodes."""

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
            description="Sentinels to ask for the master's address, instead of redis.host and redis.port, such as "
            "10.0.0.1:26379,10.0.0.2:26379."
        ),
    ] = ""
    service: Annotated[str, Meta(min_length=1, description="The master's name in the sentinels' configuration.")] = (
        "mymaster"
    )
    tls: Annotated[
        bool,
        Meta(
            description="Require TLS with the server and the sentinels, with certificates that are trusted and valid "
            "for redis.host, or for the names that the sentinels give."
        ),
    ] = False
    tls_ca: TrustedFile = ""
    tls_cert: ShownFile = ""
    tls_key: ShownKeyFile = ""
    connect_seconds: Annotated[
        Seconds, Meta(description="How long each step of connecting may take: TCP, TLS, login.")
    ] = 3.0
    command_seconds: Annotated[
        Seconds,
        Meta(
            description="How long Redis may take to answer. After that, calls are unavailable and Mercury reconnects."
        ),
    ] = 5.0


class Retention(Section):
    """How much the Redis store keeps in memory."""

    entries: Annotated[
        CountOrNone,
        Meta(
            description="How many entries of each room's log are kept, sometimes up to 100 more. 0: all. Clients "
            "that had not received a deleted entry get a reset of the room."
        ),
    ] = 0


class Crypto(Section):
    """Encryption at rest."""

    keys: Annotated[
        str,
        Meta(
            description="The key file for message texts in the store, made by `mercury-keys new FILE`. The first key "
            "encrypts, all of them decrypt. Empty: texts are stored unencrypted. See docs/encryption.md."
        ),
    ] = ""
