"""What /metrics says: every metric, declared once with its meaning and where its numbers are.

Nothing is counted here. The parts keep plain numbers (mercury/domain/counters.py, and what they have anyway), which
are read when somebody asks. Each node has a registry of its own. mercury/reference/metrics.py makes the tables of
docs/metrics.md of it. This is the only module that knows prometheus_client.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred

from mercury import __version__
from mercury.core.parts import Chat
from mercury.domain.counters import CAUSES, CLOSES, OTHER, Counters, Histogram, Load
from mercury.errors import CODES, LIMITS
from mercury.gotalk.long_poll import POLL_ENCODER
from mercury.gotalk.sync import DEVICE as GOTALK
from mercury.http.results import Parts, PlainText
from mercury.net.siblings import Siblings
from mercury.rest.readiness import Readiness
from mercury.websocket.subprotocols import v2
from mercury.websocket.subprotocols.v1 import V1
from mercury.websocket.wamp import messages

PROTOCOLS: Final = (V1.name, v2.NAME, *messages.NAMES, GOTALK)
KINDS: Final = ("message", "joined", "left")


@dataclass(frozen=True)
class NodeView:
    """What the metrics are read from."""

    chat: Chat
    store: str
    parts: Parts

    @property
    def counts(self) -> Counters:
        return self.chat.counters


Value = float | Histogram
Values = Value | Mapping[str, Value]  # by the value of the label


@dataclass(frozen=True)
class Metric:
    """One metric. `read`: where its value is; with a `label`, a value for each of that."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    meaning: str
    read: Callable[[NodeView], Values]
    label: str = ""

    def family(self, view: NodeView) -> Any:
        """Its samples."""
        labels = [self.label] if self.label else []
        found = self.read(view)
        values = found if isinstance(found, Mapping) else {"": found}
        family = FAMILIES[self.kind](self.name.removesuffix("_total"), self.meaning, labels=labels)
        for of, value in values.items():
            if isinstance(value, Histogram):
                family.add_metric([of] if self.label else [], list(_buckets(value)), value.total)
            else:
                family.add_metric([of] if self.label else [], value)
        return family


FAMILIES: Final[dict[str, Any]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Each bound with how many values are not above it."""
    below = 0
    for bound, count in zip([*histogram.bounds, float("inf")], histogram.counts, strict=True):
        below += count
        yield ("+Inf" if bound == float("inf") else str(float(bound))), below


def _each(names: Iterable[object], counted: Mapping[str, int]) -> dict[str, Value]:
    """All that may be counted, also what never was: a rate needs its zero."""
    return {str(name): counted.get(str(name), 0) for name in names}


def _sessions(view: NodeView) -> dict[str, Value]:
    names = (session.encoder.name for session in view.chat.hub.everybody())
    return _each(PROTOCOLS, Counter(GOTALK if name == POLL_ENCODER.name else name for name in names))


def _of_pools(value: Callable[[Load], Value]) -> Callable[[NodeView], Values]:
    return lambda view: {load.name: value(load) for load in view.chat.store.load}


METRICS: Final = (
    Metric(
        "mercury_build_info", "gauge", "Always 1. The label is the running version.",
        lambda view: {__version__: 1}, "version",
    ),
    Metric(
        "mercury_store_info", "gauge", "Always 1. The label is the kind of store: sqlite, mysql, redis or memory.",
        lambda view: {view.store: 1}, "kind",
    ),
    UP := Metric(
        "mercury_up", "gauge", "1 if this part of the node works, as in /readyz: node, store, bus.",
        lambda view: {
            "node": int(view.parts.node == "serving"),
            "store": int(view.parts.store == "up"),
            "bus": int(view.parts.bus == "up"),
        },
        "part",
    ),
    Metric(
        "mercury_connections", "gauge", "WebSocket connections, including those that have not logged in yet.",
        lambda view: len(view.counts.connected),
    ),
    Metric(
        "mercury_connections_opened_total", "counter", "WebSocket connections that the address filter let in.",
        lambda view: view.counts.opened,
    ),
    Metric(
        "mercury_connections_closed_total", "counter",
        "Connections that have ended: by WebSocket close code, sent by either side (1006: none), or by the HTTP "
        "status of a refused handshake.",
        lambda view: _each([*sorted(CLOSES), OTHER], view.counts.closed), "code",
    ),
    Metric(
        "mercury_received_bytes_total", "counter", "Bytes read from WebSocket connections, without TLS overhead.",
        lambda view: view.counts.bytes_in(),
    ),
    Metric(
        "mercury_sent_bytes_total", "counter",
        "Bytes of frames written to WebSocket connections, without TLS overhead, handshakes and close frames.",
        lambda view: view.counts.bytes_out() + view.chat.outbox.delivered_bytes,
    ),
    Metric(
        "mercury_sessions", "gauge", "Sessions that have logged in; of goTalk, those that poll.", _sessions, "protocol"
    ),
    Metric(
        "mercury_sessions_slow", "gauge", "Sessions whose sockets are full; live entries are not written to them.",
        lambda view: sum([session.is_slow for session in view.chat.hub.everybody()]),
    ),
    Metric(
        "mercury_sessions_slowed_total", "counter", "How often a session's socket became full.",
        lambda view: view.counts.slowed,
    ),
    Metric(
        "mercury_sessions_catching_up", "gauge", "Sessions that are reading logs to catch up.",
        lambda view: view.chat.catch_up.running,
    ),
    Metric(
        "mercury_catch_ups_total", "counter",
        "How often a session began to read a room's log because it was behind, by cause (below).",
        lambda view: _each(CAUSES, view.counts.catch_ups), "cause",
    ),
    Metric(
        "mercury_rooms", "gauge", "Rooms with at least one session on this node.", lambda view: len(view.chat.hub.rooms)
    ),
    Metric(
        "mercury_entries_total", "counter",
        "Entries that this node has stored in rooms' logs, by kind: messages, joins, leaves.",
        lambda view: _each(KINDS, view.counts.entries), "kind",
    ),
    Metric(
        "mercury_duplicates_total", "counter", "Sends with a cid that was stored before; they store nothing.",
        lambda view: view.counts.duplicates,
    ),
    Metric(
        "mercury_deliveries_total", "counter", "Entries written to sessions, counted once per session.",
        lambda view: _each(PROTOCOLS, view.counts.delivered), "protocol",
    ),
    Metric(
        "mercury_journal_entries_waiting", "gauge", "Entries that wait for the next transaction; at most 16,384.",
        lambda view: view.chat.journal.depth,
    ),
    Metric(
        "mercury_journal_batch_entries", "histogram", "Entries in one transaction; at most 1,024.",
        lambda view: view.chat.journal.sizes,
    ),
    Metric(
        "mercury_journal_commit_seconds", "histogram", "Time from sending a transaction to the store until its answer.",
        lambda view: view.chat.journal.seconds,
    ),
    Metric(
        "mercury_store_calls", "gauge", "Calls to the store that are waiting or running, by connection pool.",
        _of_pools(lambda load: load.running + load.waiting), "pool",
    ),
    Metric(
        "mercury_store_wait_seconds", "histogram", "Time that calls waited for a connection from their pool.",
        _of_pools(lambda load: load.waits), "pool",
    ),
    Metric(
        "mercury_store_unavailable_total", "counter", "Calls that the store did not answer in time, or at all.",
        _of_pools(lambda load: load.unavailable), "pool",
    ),
    Metric(
        "mercury_bus_lag_seconds", "histogram",
        "Round-trip time of a probe through Redis, sent every two seconds. Empty without a Redis bus.",
        lambda view: view.chat.cluster.lags,
    ),
    Metric(
        "mercury_holes_total", "counter",
        "Gaps: rooms whose log was read because earlier entries did not arrive over the bus within 20 ms.",
        lambda view: view.counts.holes,
    ),
    Metric(
        "mercury_errors_total", "counter", "Errors sent to clients and API callers, by code (docs/protocol.md).",
        lambda view: _each(CODES, view.counts.errors), "code",
    ),
    Metric(
        "mercury_refused_total", "counter", "What was refused because of a limit, by limit (below).",
        lambda view: _each(LIMITS, view.counts.refused), "limit",
    ),
)  # fmt: skip


class Metrics(Collector):
    """The metrics of one node. `store`: the kind that it has. `siblings`: the other workers;
    they are asked `metrics`."""

    def __init__(self, chat: Chat, readiness: Readiness, store: str, siblings: Siblings) -> None:
        self._siblings = siblings
        self._chat = chat
        self._readiness = readiness
        self._store = store
        self._parts = Parts("starting", "down", "down")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        if siblings.number is not None:
            self._registry = labelled(self._registry, siblings.number)

    def collect(self) -> Iterator[Family]:
        """What generate_latest() asks for."""
        view = NodeView(self._chat, self._store, self._parts)
        return (metric.family(view) for metric in METRICS)

    async def text(self) -> PlainText:
        """All of them as they are now, of all workers, in Prometheus' text format 0.0.4."""
        if self._siblings.number is None:
            return PlainText(await self.own_page())
        asked = Deferred.fromCoroutine(self._siblings.ask("metrics"))
        pages = {self._siblings.number: await self.own_page(), **await asked}
        return PlainText(merged(page or away(number) for number, page in sorted(pages.items())))

    async def own_page(self) -> bytes:
        """This worker's own, for /metrics of another one as well."""
        self._parts, _ = await self._readiness.check()
        return generate_latest(self._registry)


# Of several workers on one page


def labelled(registry: CollectorRegistry, worker: int) -> CollectorRegistry:
    """A registry of the same, in which each sample says whose it is. A worker that is started again begins at 0, which
    Prometheus makes up for in each series; in a sum over workers it could not see that."""

    class Labelled(Collector):
        def collect(self) -> Iterator[Family]:
            for family in registry.collect():
                family.samples = [
                    sample._replace(labels={**sample.labels, "worker": str(worker)}) for sample in family.samples
                ]
                yield family

    above = CollectorRegistry(auto_describe=False)
    above.register(Labelled())
    return above


def away(worker: int) -> bytes:
    """The page of a worker that does not answer."""
    up = GaugeMetricFamily(UP.name, UP.meaning, labels=["part", "worker"])
    up.add_metric(["node", str(worker)], 0)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(type("Away", (Collector,), {"collect": lambda self: [up]})())
    return generate_latest(registry)


def merged(pages: Iterable[bytes]) -> bytes:
    """One page of several: a metric's samples have to stand together, below its meaning."""
    samples: dict[bytes, list[bytes]] = {}
    for page in pages:
        for block in re.split(rb"(?m)^(?=# HELP )", page):
            help, _, rest = block.partition(b"\n")
            kind, _, lines = rest.partition(b"\n")
            if help:
                samples.setdefault(help + b"\n" + kind + b"\n", []).append(lines)
    return b"".join([head + b"".join(lines) for head, lines in samples.items()])
