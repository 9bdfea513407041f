"""The parts of a node, in one record: what its sessions and its REST calls work with. mercury/tap.py makes it."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from mercury.config_limits import Limits
from mercury.core.catchup import CatchUp
from mercury.core.heartbeat import Heartbeat
from mercury.core.hub import Hub
from mercury.core.nodes import Nodes
from mercury.core.rooms import Rooms
from mercury.core.tokens import Tokens
from mercury.ports import IStore


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
