"""The parts of a node's core, in one record: what sessions, REST calls and goTalk's work with.

mercury/node/build.py makes it, and nobody changes it after that.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.catch_up import CatchUp
from mercury.core.delivery.cluster import Cluster
from mercury.core.delivery.heartbeat import Heartbeat
from mercury.core.delivery.hub import Hub
from mercury.core.delivery.marks import Marks
from mercury.core.delivery.outbox import Outbox
from mercury.core.delivery.peers import Peers
from mercury.core.delivery.proof import ProofQueue
from mercury.core.journal import Journal
from mercury.core.rooms import Rooms
from mercury.core.tokens import Tokens
from mercury.domain.counters import Counters
from mercury.interfaces import IStore
from mercury.settings.limits import Limits


@dataclass(frozen=True)
class Chat:
    """In the order in which they are made: each part knows only those before it."""

    clock: IReactorTime
    limits: Limits
    store: IStore
    counters: Counters
    outbox: Outbox
    proof_queue: ProofQueue
    marks: Marks
    peers: Peers
    hub: Hub
    cluster: Cluster
    journal: Journal
    rooms: Rooms
    tokens: Tokens
    catch_up: CatchUp
    heartbeat: Heartbeat
