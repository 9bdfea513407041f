"""The bus of a node on MySQL without Redis: it carries nothing, but notices whether there is a second node.

Each such node keeps a lease in the database: a row that says who it is, where it runs, and until when the row holds, by
the database's clock. It is renewed every few seconds. While another node's row holds, this bus is down, as
interfaces.py has it: the rooms' heads are looked at once a second, so messages come late but all of them, and signals
do not come.

If another row was renewed between two looks, its node is alive, and a warning is logged. A row that was not renewed was
left by a node that was killed, most often this one before a restart; it expires soon, and nothing is logged.
"""

from __future__ import annotations

import os
import secrets
import socket
from datetime import datetime
from typing import Any, Final, NamedTuple

import pymysql
from pymysql.constants import ER
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.bus.local import LocalBus
from mercury.errors import MercuryError
from mercury.interfaces import IBus, IBusListener
from mercury.stores.mysql.server import MysqlServer, should_retry
from mercury.stores.mysql.sql import rows
from mercury.stores.pool import Pool

_log = Logger()

RENEW: Final = 3.0  # seconds between renewals, each of which is a look for others too
LOOK: Final = RENEW + 1.5  # seconds between two looks, of which the second shows whose lease was renewed
SPARE: Final = 7.0  # seconds that a lease holds longer than the database may take to renew it
GOODBYE: Final = 2.0  # seconds that close() waits for the database

HOLD = """
INSERT INTO lease (node, host, process, expires)
VALUES (%s, %s, %s, UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND)
ON DUPLICATE KEY UPDATE expires = VALUES(expires)
"""
HOLDERS = "SELECT node, host, process, expires FROM lease WHERE expires > UTC_TIMESTAMP(6)"
CLEAR = "DELETE FROM lease WHERE expires <= UTC_TIMESTAMP(6)"
OTHERS = "SELECT node, host, process, expires FROM lease WHERE node <> %s"
LEAVE = "DELETE FROM lease WHERE node = %s"


class Holder(NamedTuple):
    """Another node's row. `process`: its id on that host."""

    host: str
    process: int
    expires: datetime


@implementer(IBus)
class MysqlBus(LocalBus):
    """Publishes nothing, like LocalBus, but is up only while this node is alone on its database.

    Open the store first: it makes the table. While the database cannot be reached nothing changes, until our lease
    would have expired; then nothing is known, and the bus is down. It has one connection, with its own thread.
    """

    is_up = False

    _pool: Pool  # once it is open

    def __init__(self, clock: Any, server: MysqlServer) -> None:
        self.node = secrets.token_hex(6)
        self._clock = clock
        self._server = server
        self._lease = server.seconds + SPARE
        self._listener: IBusListener | None = None
        self._renewed = 0.0  # when our lease was last renewed
        self._others: dict[str, Holder] = {}
        self._warned: dict[str, Holder] = {}  # those that a warning was logged about
        self._renewing = LoopingCall(self._renew)
        self._renewing.clock = clock

    def open(self, listener: IBusListener) -> Deferred[None]:
        self._pool = _pool(self._server)
        self._listener = listener
        self._renewed = self._clock.seconds()
        return self._renew().addCallback(lambda _: self._go_on())

    def _go_on(self) -> None:
        if self._listener is not None:
            self._renewing.start(RENEW, now=False).addErrback(_broken)

    def close(self) -> Deferred[None]:
        if self._listener is None:
            return succeed(None)
        self._listener = None
        self.is_up = False
        if self._renewing.running:
            self._renewing.stop()
        leaving = self._pool.run(_leave, self.node)
        done = DeferredList([leaving, self._pool.close()], consumeErrors=True)  # what runs comes to its end
        done.addTimeout(GOODBYE, self._clock, onTimeoutCancel=lambda *_: None)
        return done.addCallback(lambda _: None)

    def _renew(self) -> Deferred[None]:
        """Renew our lease and look at the others. Never fails; takes at most as long as one call."""
        renewed = self._pool.run(_renew, self.node, self._lease)
        return renewed.addCallbacks(self._found, self._missed).addErrback(_broken)

    def _missed(self, failure: Failure) -> None:
        failure.trap(MercuryError)  # the pool has logged it
        if self._is_over():
            self.is_up = False

    def _is_over(self) -> bool:
        """Whether our own lease may have expired."""
        return bool(self._clock.seconds() - self._renewed > self._lease)

    def _found(self, others: dict[str, Holder]) -> None:
        """The other nodes that hold a lease now."""
        if self._listener is None:
            return
        if self._is_over():  # others may have expired, too, and not be renewed yet: keep them until the next look
            others = self._others | others
        for node, other in others.items():
            if node in self._others and self._others[node].expires != other.expires and node not in self._warned:
                self._warned[node] = other
                _log.warn(
                    "another Mercury, {node} on {host} (process {process}), uses this database without a bus: "
                    "its messages arrive late here, and presence, typing, read marks, kicks and "
                    "revocations do not arrive at all. Set --redis.host on all nodes, or stop one",
                    node=node, host=other.host, process=other.process,
                )  # fmt: skip
        for node in self._warned.keys() - others.keys():
            gone = self._warned.pop(node)
            _log.info(
                "the other Mercury, {node} on {host} (process {process}), has stopped",
                node=node, host=gone.host, process=gone.process,
            )  # fmt: skip
        was_up, self.is_up = self.is_up, not others
        self._others, self._renewed = others, self._clock.seconds()
        if others:
            self._listener.invalidate([])  # members may have been put into rooms by the other node
        elif not was_up:
            self._listener.invalidate(None)


async def users(clock: Any, server: MysqlServer) -> list[str]:
    """The nodes that use the database without a bus, for people to read. Takes LOOK seconds if there are any leases:
    those that are not renewed meanwhile were left by nodes that were killed. May raise MercuryError."""
    pool = _pool(server)
    try:
        before = await pool.run(_holders_if_any)
        if not before:
            return []
        await deferLater(clock, LOOK)
        now = await pool.run(_holders)
    finally:
        await pool.close()
    return [
        f"process {holder.process} on {holder.host}"
        for node, holder in now.items()
        if node not in before or before[node].expires != holder.expires
    ]


def _pool(server: MysqlServer) -> Pool:
    """Whatever the engine says is an outage here, and so is logged once: even that there is no such table."""
    return Pool(
        f"{server} (leases)", server.connections(1), pymysql.Error, should_retry=should_retry, timeout=server.seconds
    )


def _broken(failure: Failure) -> None:
    _log.failure("renewing the lease failed", failure)


# What runs in a thread


def _renew(cursor: Any, node: str, seconds: float) -> dict[str, Holder]:
    """Hold a lease from now on for so long, and remove what is over. Who else holds one."""
    cursor.execute(HOLD, (node, socket.gethostname(), os.getpid(), round(seconds * 1_000_000)))
    cursor.execute(CLEAR)
    return _holders(cursor, OTHERS, node)


def _holders_if_any(cursor: Any) -> dict[str, Holder]:
    try:
        return _holders(cursor)
    except pymysql.err.ProgrammingError as error:
        if error.args[0] != ER.NO_SUCH_TABLE:  # of a backup by a Mercury that had none
            raise
        return {}


def _holders(cursor: Any, select: str = HOLDERS, *args: object) -> dict[str, Holder]:
    return {
        name.decode(): Holder(host.decode(errors="replace"), process, expires)
        for name, host, process, expires in rows(cursor, select, *args)
    }


def _leave(cursor: Any, node: str) -> None:
    cursor.execute(LEAVE, (node,))
