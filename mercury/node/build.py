"""A node: the one place where its parts are chosen and put together.

make_node() makes a node from the options; mercury/node/service.py has its life, from start to stop. Backends are
imported by name, when they are chosen, so that none of their drivers need be there for another.
"""

from __future__ import annotations

import os
import resource
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService

from mercury.bus.local import LocalBus
from mercury.core.delivery.catch_up import CatchUp
from mercury.core.delivery.cluster import Cluster
from mercury.core.delivery.heartbeat import Heartbeat
from mercury.core.delivery.hub import Hub
from mercury.core.delivery.marks import Marks
from mercury.core.delivery.outbox import Broadcaster, Outbox
from mercury.core.delivery.peers import Peers
from mercury.core.delivery.proof import ProofQueue
from mercury.core.journal import Journal
from mercury.core.parts import Chat
from mercury.core.rooms import Rooms
from mercury.core.tokens import Tokens
from mercury.domain.counters import Counters
from mercury.errors import MercuryError
from mercury.gotalk.accounts import Accounts
from mercury.gotalk.calls import make_gotalk_site
from mercury.gotalk.passwords import Passwords
from mercury.gotalk.sync import Sync
from mercury.interfaces import IAccounts, IBus, IStore
from mercury.net.address_filter import AddressFilter, Rules
from mercury.net.io_uring import make_broadcaster
from mercury.net.siblings import Siblings
from mercury.net.tls import Certificate, under_tls
from mercury.net.worker_pipe import worker_slot
from mercury.node.endpoints import endpoint_of, warnings_of_sockets
from mercury.node.listeners import Listening
from mercury.node.service import MercuryService
from mercury.node.systemd import sockets
from mercury.rest.api_keys import ApiKeys
from mercury.rest.connections import MemberConnections
from mercury.rest.metrics import Metrics
from mercury.rest.readiness import Readiness
from mercury.rest.site import make_site
from mercury.settings.engines import Mysql, Redis
from mercury.settings.flags import Flags
from mercury.settings.schema import Config, ListenerSettings, has_bus, storage_type
from mercury.settings.types import ConfigError, addresses, networks
from mercury.stores.sealing import NO_KEYS, KeyFileError, Keys, read_keys, warnings_of
from mercury.websocket.admission import ChatHandler, Subprotocols
from mercury.websocket.factory import WebSocketFactory

OTHER_FILES = 1000  # beside connections that have a limit: the store's, the log, some in reserve

if TYPE_CHECKING:
    from mercury.stores.mysql.server import MysqlServer
    from mercury.stores.redis.link import RedisServer
    from mercury.stores.tls import EngineTls


def keys_of(config: Config) -> Keys:
    """What texts are encrypted with; no keys if no file of them is set. ConfigError if it cannot be used."""
    try:
        return read_keys(Path(config.crypto.keys)) if config.crypto.keys else NO_KEYS
    except KeyFileError as error:
        raise ConfigError(f"--crypto.keys: {error}") from None


def make_store(config: Config, *, node: str = "", beside_node: bool = False) -> IStore:
    """The store that the settings choose, for the node of this name. `beside_node`: opened by another process beside
    the nodes that use it, to seal its texts again."""
    kind, rooms, keys = storage_type(config), config.limits.rooms_per_member, keys_of(config)
    if kind == "memory":
        from mercury.stores.memory.store import MemoryStore

        return MemoryStore(rooms, keys)
    if kind == "sqlite":
        from mercury.stores.sqlite.store import SqliteStore

        return SqliteStore(config.sqlite.path, rooms, keys, beside_node=beside_node)
    if kind == "redis":
        from twisted.internet import reactor

        from mercury.bus.redis import room_channels
        from mercury.stores.redis.store import RedisStore

        server = redis_server(config.redis)
        told = {"channel": room_channels(server), "node": node}
        return RedisStore(reactor, server, rooms, keep=config.retention.entries, keys=keys, **told)
    from mercury.stores.mysql.store import MysqlStore

    return MysqlStore(mysql_server(config.mysql), config.mysql.connections, rooms, keys)


def make_bus(reactor: Any, config: Config, node: str = "") -> IBus:
    """How the node of this name hears of others: through Redis where it is set and they can share the store, else not
    at all; but on MySQL it sees whether there are any."""
    kind = storage_type(config)
    if kind not in ("mysql", "redis"):
        return LocalBus()
    if not has_bus(config):
        from mercury.bus.mysql import MysqlBus

        return MysqlBus(reactor, mysql_server(config.mysql))
    from mercury.bus.redis import RedisBus

    server, by_store = redis_server(config.redis), kind == "redis"
    return RedisBus(reactor, server, store_publishes=by_store, node=node, keys=keys_of(config))


def redis_server(redis: Redis) -> RedisServer:
    """The Redis server of the settings. ConfigError if they contradict each other."""
    from mercury.stores.redis.link import RedisServer

    return RedisServer(
        host=redis.host,
        port=redis.port,
        password=redis.password.value,
        db=redis.db,
        sentinels=addresses(redis.sentinels),
        service=redis.service,
        tls=engine_tls("redis", redis),
        connect_seconds=redis.connect_seconds,
        command_seconds=redis.command_seconds,
    )


def mysql_server(mysql: Mysql) -> MysqlServer:
    """The MySQL server of the settings. ConfigError if they contradict each other."""
    from mercury.stores.mysql.server import MysqlServer

    return MysqlServer(
        host=mysql.host,
        port=mysql.port,
        user=mysql.user,
        password=mysql.password.value,
        database=mysql.database,
        tls=engine_tls("mysql", mysql),
        connect_seconds=mysql.connect_seconds,
        write_seconds=mysql.write_seconds,
        read_seconds=mysql.read_seconds,
    )


def engine_tls(section: str, engine: Mysql | Redis) -> EngineTls | None:
    """How TLS to an engine is to be, if it is. ConfigError if the settings contradict each other."""
    from mercury.stores.tls import EngineTls

    if not engine.tls:
        for name in ("tls-ca", "tls-cert", "tls-key"):
            if getattr(engine, name.replace("-", "_")):
                raise ConfigError(f"{section}.{name} is set, but {section}.tls is not: set both or neither")
        return None
    if bool(engine.tls_cert) != bool(engine.tls_key):
        raise ConfigError(f"{section}.tls-cert and {section}.tls-key belong together: set both or neither")
    return EngineTls(section, engine.tls_ca, engine.tls_cert, engine.tls_key)


def make_chat(
    clock: Any, store: IStore, config: Config, bus: IBus | None = None, broadcaster: Broadcaster | None = None
) -> Chat:
    """The core: every part of it is made here, and handed what it needs of those before it.

    `bus`: none for a node that is alone. `broadcaster`: what sends to many sockets at once; none sends one by one.
    """
    limits, bus = config.limits, bus or LocalBus()
    counters = Counters()
    outbox = Outbox(broadcaster)
    proof_queue = ProofQueue(clock)
    marks = Marks(clock, store)
    peers = Peers(bus)
    hub = Hub(clock, store, limits, counters=counters, outbox=outbox, proof_queue=proof_queue, marks=marks, peers=peers)
    cluster = Cluster(clock, hub, peers, bus)
    journal = Journal(clock, store, hub, peers, bus, outbox, counters)
    return Chat(
        clock=clock,
        limits=limits,
        store=store,
        counters=counters,
        outbox=outbox,
        proof_queue=proof_queue,
        marks=marks,
        peers=peers,
        hub=hub,
        cluster=cluster,
        journal=journal,
        rooms=Rooms(clock, store, journal, marks, limits),
        tokens=Tokens(store, cluster, config),
        catch_up=CatchUp(clock, store, hub, outbox, counters),
        heartbeat=Heartbeat(clock, limits),
    )


def rules_of(listener: ListenerSettings, connections: int = 0, per_address: int = 0) -> Rules:
    """Who may connect to a listener, by its settings as they are now."""
    proxies = networks(listener.proxies) if listener.endpoint.startswith("haproxy:") else None
    return Rules(networks(listener.address), proxies, connections, per_address)


def certificate_of(section: str, listener: ListenerSettings) -> Certificate | None:
    """What a listener serves TLS with, if it does. ConfigError if that cannot be used."""
    tls = listener.tls
    try:
        return Certificate(f"{section}.tls", Path(tls.cert), Path(tls.key)) if tls.cert else None
    except MercuryError as error:
        raise ConfigError(error.reason) from None


def make_websocket(clock: Any, chat: Chat, config: Config, certificate: Certificate | None = None) -> AddressFilter:
    """The WebSocket side: address filter, TLS, Autobahn, and admission to the chat."""
    limits, ws = config.limits, config.server.ws
    subprotocols = Subprotocols(config)
    factory = WebSocketFactory(
        lambda connection: ChatHandler(chat, subprotocols, connection),
        reactor=clock,
        limits=limits,
        ws=ws,
        counts=chat.counters,
    )

    def rules() -> Rules:
        return rules_of(ws, limits.connections, limits.connections_per_address)

    return AddressFilter(under_tls(factory, certificate), rules, clock, chat.counters)


def make_rest(
    clock: Any,
    chat: Chat,
    config: Config,
    readiness: Readiness,
    siblings: Siblings,
    certificate: Certificate | None = None,
) -> AddressFilter:
    """The REST side: address filter, TLS and Klein."""
    api = config.server.api
    metrics = Metrics(chat, readiness, storage_type(config), siblings)
    connections = MemberConnections(chat, siblings)
    siblings.respond(
        {
            "readiness": readiness.answer,
            "metrics": metrics.own_page,
            "connections": connections.answer_list,
            "kick": connections.answer_kick,
        }
    )
    site = make_site(chat, ApiKeys(api), readiness, metrics, connections)
    return AddressFilter(under_tls(site, certificate), lambda: rules_of(api, api.connections), clock, chat.counters)


def make_gotalk(
    clock: Any, chat: Chat, config: Config, passwords: Passwords, certificate: Certificate | None = None
) -> AddressFilter:
    """goTalk's side: address filter, TLS and Klein."""
    gotalk, store = config.gotalk, IAccounts(chat.store)
    accounts = Accounts(clock, store, chat.tokens, passwords, gotalk)
    site = make_gotalk_site(chat, accounts, Sync(chat, store), gotalk)

    def rules() -> Rules:
        return rules_of(gotalk, gotalk.connections, gotalk.connections_per_address)

    return AddressFilter(under_tls(site, certificate), rules, clock, chat.counters)


def make_node(options: Flags) -> IService:
    """The node that mercury/tap.py has twistd run. Wrong settings end the process with one line."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    prepare_process(reactor)
    config = options.config
    slot = worker_slot()
    siblings = Siblings(reactor, slot)
    passed = sockets(os.environ)
    try:
        node = secrets.token_hex(6)  # its name among the others
        store, bus = make_store(config, node=node), make_bus(reactor, config, node)
        chat = make_chat(reactor, store, config, bus, make_broadcaster())
        readiness = Readiness(chat, siblings)
        passwords = Passwords(reactor) if config.gotalk.enabled else None
        listenings = list(make_listenings(reactor, chat, config, readiness, siblings, passwords, passed))
    except ConfigError as error:
        sys.exit(f"mercury: {error}")
    if slot is not None:
        listenings = [one._replace(passed=slot.sockets[one.section]) for one in listenings]
    warnings = list(options.warnings)
    warnings += warnings_of(Path(config.crypto.keys)) if config.crypto.keys else []
    warnings += warnings_of_sockets(passed, {listening.endpoint for listening in listenings})
    warnings += warnings_of_files(config, most_files())
    return MercuryService(
        reactor,
        chat,
        config,
        listenings=listenings,
        readiness=readiness,
        siblings=siblings,
        passwords=passwords,
        warnings=warnings,
        parent=options.parent,
        read=options.read_again,
    )


def make_listenings(
    reactor: Any,
    chat: Chat,
    config: Config,
    readiness: Readiness,
    siblings: Siblings,
    passwords: Passwords | None,
    passed: Mapping[int, str],
) -> Iterator[Listening]:
    """What the node listens on: REST, WebSocket, and goTalk if there are passwords. `passed`: the sockets that systemd
    passes, by their ports. May raise ConfigError."""
    api, ws, gotalk = config.server.api, config.server.ws, config.gotalk
    certificate = certificate_of("server.api", api)
    rest = make_rest(reactor, chat, config, readiness, siblings, certificate)
    wanted = partial(endpoint_of, api, passed)
    yield Listening("server.api", wanted(), rest, certificate, wanted)
    certificate = certificate_of("server.ws", ws)
    websocket = make_websocket(reactor, chat, config, certificate)
    wanted = partial(endpoint_of, ws, passed)
    yield Listening("server.ws", wanted(), websocket, certificate, wanted)
    if passwords is not None:
        certificate = certificate_of("gotalk", gotalk)
        site = make_gotalk(reactor, chat, config, passwords, certificate)
        wanted = partial(endpoint_of, gotalk, passed)
        yield Listening("gotalk", wanted(), site, certificate, wanted)


def most_files() -> int:
    """How many files and sockets this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def warnings_of_files(config: Config, most: int) -> list[str]:
    """What is wrong with having at most so many files open."""
    limits, api, gotalk = config.limits, config.server.api, config.gotalk
    wanted = limits.connections + api.connections + (gotalk.connections if gotalk.enabled else 0) + OTHER_FILES
    if not limits.connections or wanted <= most:
        return []
    return [
        f"only {most} files may be open at a time, but --limits.connections is {limits.connections}: allow {wanted} "
        "(LimitNOFILE= in the unit, or ulimit -n), or lower the limit"
    ]


def prepare_process(reactor: Any) -> None:
    """Timers on a monotonic clock, since Twisted's own would stop when the wall clock is set back; as many files open
    as we may have; and threads that hand over quickly: the store's is what clients wait for."""
    reactor.seconds = time.monotonic
    most = most_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.setswitchinterval(0.0005)
