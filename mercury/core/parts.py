"""The parts of a node, in one record: what its sessions and its REST calls work with. mercury/node/build.py makes
it.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.catch_up import CatchUp
from mercury.core.delivery.cluster import Nodes
from mercury.core.delivery.heartbeat import Heartbeat
from mercury.core.delivery.hub import Hub
from mercury.core.rooms import Rooms
from mercury.core.tokens import Tokens
from mercury.interfaces import IStore
from mercury.settings.limits import Limits


@dataclass(frozen=True)
class Chat:
    clock: IReactorTime
    store: IStore
    hub: Hub
    nodes: Nodes
    rooms: Rooms
    tokens: Tokens
    catch_up: CatchUp
    heartbeat: Heartbeat
    limits: Limits
