"""`twistd mercury`: the one place where the parts are chosen and put together.

makeService() makes a node from the options; mercury/service.py has its life, from start to stop. Backends are imported
by name, when they are chosen, so that none of their drivers need be there for another.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.internet.interfaces import IProtocolFactory

from mercury.backends.bus_local import LocalBus
from mercury.backends.sealing import NO_KEYS, KeyFileError, Keys, read_keys, warnings_of
from mercury.config import Api, Config, Gotalk, Mysql, Redis, Ws, storage_type
from mercury.config_types import ConfigError, addresses, api_keys, methods, networks, origins
from mercury.core.accounts import Accounts, Rules
from mercury.core.catchup import CatchUp
from mercury.core.chat import Chat
from mercury.core.handover import Handover
from mercury.core.heartbeat import Heartbeat
from mercury.core.hub import Hub
from mercury.core.nodes import Nodes
from mercury.core.passwords import Passwords
from mercury.core.rooms import Rooms
from mercury.core.tokens import Tokens
from mercury.errors import MercuryError
from mercury.options import Options as Options  # twistd looks for it here
from mercury.ports import IAccounts, IBus, IStore
from mercury.service import Listening, MercuryService
from mercury.transports.api_keys import ApiKeys
from mercury.transports.chat import ChatDoor, Protocols
from mercury.transports.filtering import AddressFilter
from mercury.transports.gotalk import make_gotalk_site
from mercury.transports.rest import make_site
from mercury.transports.tls import Certificate, under_tls
from mercury.transports.wamp import Realm
from mercury.transports.websocket import WebSocketFactory

BACKLOG = 1024  # connections that wait to be accepted: Twisted's 50 overflow when all clients come back at once

if TYPE_CHECKING:
    from mercury.backends.mysql_server import Server
    from mercury.backends.redis_link import RedisServer


def keys_of(config: Config) -> Keys:
    """What texts are encrypted with; no keys if no file of them is set. ConfigError if it cannot be used."""
    try:
        return read_keys(Path(config.crypto.keys)) if config.crypto.keys else NO_KEYS
    except KeyFileError as error:
        raise ConfigError(f"--crypto.keys: {error}") from None


def make_store(config: Config, *, beside: bool = False) -> IStore:
    """The store that the settings choose. `beside`: beside nodes that use it, to seal it anew."""
    kind, rooms, keys = storage_type(config), config.limits.rooms_per_member, keys_of(config)
    if kind == "memory":
        from mercury.backends.memory import MemoryStore

        return MemoryStore(rooms, keys)
    if kind == "sqlite":
        from mercury.backends.sqlite import SqliteStore

        return SqliteStore(config.sqlite.path, rooms, keys, beside=beside)
    if kind == "redis":
        from twisted.internet import reactor

        from mercury.backends.bus_redis import room_channels
        from mercury.backends.redis import RedisStore

        server = redis_server(config.redis)
        channel = room_channels(server)
        return RedisStore(reactor, server, rooms, keep=config.retention.entries, channel=channel, keys=keys)
    from mercury.backends.mysql import MysqlStore

    return MysqlStore(mysql_server(config.mysql), config.mysql.connections, rooms, keys)


def make_bus(reactor: Any, config: Config) -> IBus:
    """How this node hears of others: through Redis where it is set and they can share the store, else not at all; but
    on MySQL it sees whether there are any."""
    kind = storage_type(config)
    if kind not in ("mysql", "redis"):
        return LocalBus()
    if not (config.redis.host or config.redis.sentinels):
        from mercury.backends.bus_mysql import MysqlBus

        return MysqlBus(reactor, mysql_server(config.mysql))
    from mercury.backends.bus_redis import RedisBus

    return RedisBus(reactor, redis_server(config.redis), store_publishes=kind == "redis", keys=keys_of(config))


def redis_server(redis: Redis) -> RedisServer:
    """The Redis server of the settings."""
    from mercury.backends.redis_link import RedisServer

    return RedisServer(
        host=redis.host,
        port=redis.port,
        password=redis.password.value,
        db=redis.db,
        sentinels=addresses(redis.sentinels),
        service=redis.service,
        connect_seconds=redis.connect_seconds,
        command_seconds=redis.command_seconds,
    )


def mysql_server(mysql: Mysql) -> Server:
    """The MySQL server of the settings. ConfigError if they contradict each other."""
    from mercury.backends.mysql_server import Server

    if mysql.tls_ca and not mysql.tls:
        raise ConfigError("mysql.tls-ca is set, but mysql.tls is not: set both, or neither")
    return Server(
        host=mysql.host,
        port=mysql.port,
        user=mysql.user,
        password=mysql.password.value,
        database=mysql.database,
        tls=mysql.tls,
        tls_ca=mysql.tls_ca,
        connect_seconds=mysql.connect_seconds,
        write_seconds=mysql.write_seconds,
        read_seconds=mysql.read_seconds,
    )


def make_chat(clock: Any, store: IStore, config: Config, bus: IBus | None = None) -> Chat:
    """The core, with the limits that the settings give it; without a bus, for a node that is alone."""
    limits = config.limits
    hub = Hub(clock, store, connections_per_member=limits.connections_per_member, signals_room=limits.signals_room)
    rooms = Rooms(
        clock,
        store,
        hub,
        text_bytes=limits.text_bytes,
        history_page=limits.history_page,
        rate=limits.messages_per_second,
        burst=limits.burst,
    )
    nodes = Nodes(clock, hub, bus or LocalBus())
    tokens = Tokens(store, nodes, ttl=config.token.ttl, keep=limits.tokens_per_member)
    return Chat(
        clock=clock,
        store=store,
        hub=hub,
        nodes=nodes,
        rooms=rooms,
        tokens=tokens,
        catch_up=CatchUp(clock, store, hub),
        heartbeat=Heartbeat(clock, limits.ping_seconds),
        handshake_seconds=limits.handshake_seconds,
        drain_seconds=limits.drain_seconds,
    )


def endpoint_of(listener: Api | Ws | Gotalk) -> str:
    """The endpoint string of a listener: its own, or its port on as few interfaces as its address list needs."""
    if listener.endpoint:
        return listener.endpoint
    allowed = networks(listener.address)
    if all(network.is_loopback for network in allowed):
        interface = "127.0.0.1" if any(isinstance(n, IPv4Network) for n in allowed) else "\\:\\:1"
    else:
        interface = "" if all(isinstance(n, IPv4Network) for n in allowed) else "\\:\\:"
    return f"tcp:{listener.port}:backlog={BACKLOG}" + (f":interface={interface}" if interface else "")


def certificate_of(section: str, listener: Api | Ws | Gotalk) -> Certificate | None:
    """What a listener serves TLS with, if it does. ConfigError if that cannot be used."""
    tls = listener.tls
    if bool(tls.cert) != bool(tls.key):
        raise ConfigError(f"{section}.tls.cert and {section}.tls.key go together: give both or none")
    try:
        return Certificate(f"{section}.tls", Path(tls.cert), Path(tls.key)) if tls.cert else None
    except MercuryError as error:
        raise ConfigError(error.reason) from None


def make_websocket(clock: Any, chat: Chat, config: Config, certificate: Certificate | None = None) -> IProtocolFactory:
    """The WebSocket side: address filter, TLS, Autobahn, and the door to the chat."""
    limits, ws = config.limits, config.server.ws
    protocols = Protocols(limits.json_depth, Realm(config.wamp.realm, methods(config.wamp.authmethods)))
    factory = WebSocketFactory(
        lambda connection: ChatDoor(chat, protocols, connection),
        reactor=clock,
        frame_bytes=limits.frame_bytes,
        handshake_seconds=limits.handshake_seconds,
        origins=origins(ws.origins),
        compression=ws.compression,
    )
    return AddressFilter(
        under_tls(factory, certificate),
        networks(ws.address),
        proxies=networks(ws.proxies) if ws.endpoint.startswith("haproxy:") else None,
        connections=limits.connections,
        per_address=limits.connections_per_address,
        clock=clock,
    )


def make_rest(
    clock: Any, chat: Chat, config: Config, service: MercuryService, certificate: Certificate | None = None
) -> IProtocolFactory:
    """The REST side: address filter, TLS and Klein."""
    api, limits, keys = config.server.api, config.limits, ApiKeys(api_keys(config.server.api.keys))
    site = make_site(
        chat,
        keys,
        body_bytes=limits.body_bytes,
        request_seconds=limits.request_seconds,
        ready=lambda: service.ready,
    )
    return AddressFilter(
        under_tls(site, certificate),
        networks(api.address),
        proxies=networks(api.proxies) if api.endpoint.startswith("haproxy:") else None,
        connections=api.connections,
        clock=clock,
    )


def make_accounts(clock: Any, chat: Chat, config: Config, passwords: Passwords) -> Accounts:
    """Who may register and log in at goTalk's door. ConfigError if the settings contradict each other."""
    gotalk = config.gotalk
    if gotalk.registration == "invite" and not gotalk.invite.value:
        raise ConfigError("gotalk.registration is invite, but gotalk.invite is not set")
    rules = Rules(
        registration=gotalk.registration,
        invite=gotalk.invite.value,
        password_least=gotalk.password_least,
        friends=gotalk.friends,
        logins_per_minute=gotalk.logins_per_minute,
        registrations_per_minute=gotalk.registrations_per_minute,
    )
    return Accounts(clock, IAccounts(chat.store), chat.tokens, passwords, rules)


def make_gotalk(
    clock: Any, chat: Chat, config: Config, passwords: Passwords, certificate: Certificate | None = None
) -> IProtocolFactory:
    """goTalk's side: address filter, TLS and Klein."""
    gotalk, limits = config.gotalk, config.limits
    accounts = make_accounts(clock, chat, config, passwords)
    handover = Handover(chat, IAccounts(chat.store))
    site = make_gotalk_site(
        chat,
        accounts,
        handover,
        body_bytes=limits.body_bytes,
        request_seconds=limits.request_seconds,
        secure=gotalk.secure,
    )
    return AddressFilter(
        under_tls(site, certificate),
        networks(gotalk.address),
        proxies=networks(gotalk.proxies) if gotalk.endpoint.startswith("haproxy:") else None,
        connections=gotalk.connections,
        per_address=gotalk.connections_per_address,
        clock=clock,
    )


def makeService(options: Options) -> IService:
    """The node that `twistd mercury` runs. Wrong settings end the process with one line."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    prepare_process(reactor)
    config = options.config
    try:
        store = make_store(config)
    except ConfigError as error:
        sys.exit(f"mercury: {error}")
    chat = make_chat(reactor, store, config, make_bus(reactor, config))
    warnings = options.warnings + (warnings_of(Path(config.crypto.keys)) if config.crypto.keys else [])
    service = MercuryService(reactor, chat, config, warnings, options.parent)
    try:
        service.listenings = list(make_listenings(reactor, chat, config, service))
    except ConfigError as error:
        sys.exit(f"mercury: {error}")
    return service


def make_listenings(reactor: Any, chat: Chat, config: Config, service: MercuryService) -> Iterator[Listening]:
    """What the node listens on: REST, WebSocket, and goTalk's door if it is open. May raise ConfigError."""
    api, ws, gotalk = config.server.api, config.server.ws, config.gotalk
    certificate = certificate_of("server.api", api)
    rest = make_rest(reactor, chat, config, service, certificate)
    yield Listening("server.api", endpoint_of(api), rest, certificate)
    certificate = certificate_of("server.ws", ws)
    yield Listening("server.ws", endpoint_of(ws), make_websocket(reactor, chat, config, certificate), certificate)
    if gotalk.enabled:
        service.passwords = Passwords(reactor)
        certificate = certificate_of("gotalk", gotalk)
        door = make_gotalk(reactor, chat, config, service.passwords, certificate)
        yield Listening("gotalk", endpoint_of(gotalk), door, certificate)


def prepare_process(reactor: Any) -> None:
    """Timers on a monotonic clock, since Twisted's own would stop when the wall clock is set back; as many file
    descriptors as we may have; and threads that hand over quickly: the store's is what clients wait for."""
    reactor.seconds = time.monotonic
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.setswitchinterval(0.0005)
