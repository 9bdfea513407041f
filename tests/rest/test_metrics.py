"""What is said at /metrics is clean, and what is built upon it (docs, dashboard, alerts) speaks of metrics that exist.

tests/rest/test_metrics_moved.py has what each metric counts.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from mercury import __version__
from mercury.domain.counters import Histogram
from mercury.http.results import PlainText
from mercury.rest.api_keys import new_key
from mercury.rest.metrics import METRICS, PROTOCOLS
from mercury.settings.schema import Config
from mercury.websocket.admission import Subprotocols
from tests.support.free_ports import free_port
from tests.support.in_process_node import Node, Wiretap
from tests.support.metrics_watch import Numbers, Watch
from tests.support.paths import ROOT
from tests.support.recorder import Record
from tests.support.recording_clients import V2Client
from tests.support.server_process import Server

DASHBOARD = ROOT / "etc/grafana/mercury.json"
ALERTS = ROOT / "etc/prometheus/alerts.yml"
SCRAPING = ROOT / "etc/prometheus/prometheus.yml"

#: Of Prometheus' client itself. The others stand in METRICS.
PROCESS = {
    "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
    "process_cpu_seconds_total", "process_open_fds", "process_max_fds", "python_info",
    "python_gc_objects_collected_total", "python_gc_objects_uncollectable_total", "python_gc_collections_total",
}  # fmt: skip
KNOWN = {metric.name for metric in METRICS} | PROCESS


async def scrape(node: Node, key: str = "") -> tuple[str, str]:
    """The head and the text that Prometheus gets."""
    wiretap: Wiretap = await node.connect()
    shown = f"Authorization: Bearer {key}\r\n" if key else ""
    wiretap.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{shown}\r\n".encode())
    head, _, text = (await wiretap.all()).decode().partition("\r\n\r\n")
    return head, text


@ensureDeferred
async def test_the_text_is_what_prometheus_reads() -> None:
    async with Node() as node:
        head, text = await scrape(node)
    assert head.startswith("HTTP/1.1 200 ")
    assert f"Content-Type: {CONTENT_TYPE_PLAIN_0_0_4}" in head
    assert PlainText.media == CONTENT_TYPE_PLAIN_0_0_4
    numbers = Numbers(text)
    assert set(numbers.metric_of.values()) == KNOWN - {m.name for m in METRICS if m.label == "pool"}, "no pools here"
    assert text.count("# HELP ") == text.count("# TYPE ") == len(set(re.findall("# TYPE (.+) ", text)))
    for name in PROCESS - {"python_gc_objects_uncollectable_total"}:
        assert any(value > 0 for key, value in numbers.samples.items() if numbers.metric_of[key] == name), name
    promtool = shutil.which("promtool")
    if promtool:  # as well, where there is one
        done = await deferToThread(subprocess.run, [promtool, "check", "metrics"], input=text.encode())
        assert done.returncode == 0


@pytest.mark.slow
@ensureDeferred
async def test_a_whole_node_tells_of_all_its_parts(tmp_path: Path) -> None:
    """As `twistd mercury` puts it together, with the WebSocket port and the store."""
    server = Server(tmp_path, (free_port(), free_port()))
    await server.start()
    try:
        await server.ok("POST", "/api/rooms/r/members", {"members": ["ann"]})
        client = V2Client(Record(), server.where, "ann", await server.token("ann"))
        await client.connect()
        text = await deferToThread(lambda: urlopen(f"http://127.0.0.1:{server.where.api}/metrics", timeout=20).read())
        numbers = Numbers(text.decode())
        assert set(numbers.metric_of.values()) == KNOWN
        for part in ("node", "store", "bus"):
            assert numbers("mercury_up", part=part) == 1
        assert numbers("mercury_store_info", kind="sqlite") == numbers("mercury_build_info", version=__version__) == 1
        assert numbers("mercury_connections") == numbers("mercury_sessions", protocol="mercury.v2.json") == 1
        assert numbers("mercury_entries_total", kind="joined") == 1
        await client.close()
    finally:
        await server.stop()


@ensureDeferred
async def test_a_scraper_shows_a_key_where_keys_are_configured() -> None:
    key, hashed = new_key()
    node = Node()
    node.keys = f"prometheus:{hashed}"
    async with node:
        refused, _ = await scrape(node)
        assert refused.startswith("HTTP/1.1 401 ")
        head, text = await scrape(node, key)
    assert head.startswith("HTTP/1.1 200 ")
    assert Numbers(text)("mercury_errors_total", code="unauthorized") == 1


@ensureDeferred
async def test_nodes_in_one_process_count_apart() -> None:
    async with Node() as one, Node() as other:
        await one.ask("GET", "/api/rooms/nowhere")
        looks = [await Watch(node.chat).look() for node in (one, other)]
    assert [look("mercury_errors_total", code="not_found") for look in looks] == [1, 0]


def test_names_keep_to_the_rules() -> None:
    """https://prometheus.io/docs/practices/naming/: base units, and counters end with _total."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"mercury_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.meaning.endswith(".")
        if metric.kind == "histogram":
            assert metric.name.endswith(("_seconds", "_entries"))


def test_a_histogram_counts_a_bound_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 7.5)


def test_every_protocol_that_is_spoken_is_told_apart() -> None:
    spoken = Subprotocols(Config())
    assert {"v1", *spoken.names, "gotalk"} == set(PROTOCOLS)


# What is built upon them


def named(expression: str) -> set[str]:
    """The metrics that an expression is about."""
    found = set()
    for name in re.findall(r"\b(?:mercury|process|python)_[a-z_]+", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        is_histogram = any(metric.name == base and metric.kind == "histogram" for metric in METRICS)
        found.add(base if is_histogram else name)
    return found


def balanced(expression: str) -> bool:
    """Whether brackets and quotes are closed, each by its own kind."""
    expression = re.sub(r'"[^"]*"', "", expression)
    waiting = []
    for sign in expression:
        if sign in "([{":
            waiting.append(")]}"["([{".index(sign)])
        elif sign in ")]}" and (not waiting or waiting.pop() != sign):
            return False
    return not waiting and '"' not in expression


def labels_of(expression: str) -> Iterator[tuple[str, str, str]]:
    """Metric, label and value, wherever an expression wants a label of a metric of Mercury's to have one."""
    for name, wanted in re.findall(r"(mercury_[a-z_]+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', wanted):
            if label not in ("job", "instance"):
                yield name, label, value


def expressions() -> list[str]:
    """All that are in the dashboard and in the alerts."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return shown + [rule["expr"] for rule in rules()]


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    return [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert set().union(*(named(target["expr"]) for target in targets)) == KNOWN
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or (panel["targets"] and panel["description"]), panel["title"]
        assert [target["refId"] for target in panel.get("targets", ())] == list("ABCD")[: len(panel.get("targets", ()))]
    places = [[panel["gridPos"][key] for key in "xywh"] for panel in dashboard["panels"]]
    taken = [(column, line) for x, y, w, h in places for column in range(x, x + w) for line in range(y, y + h)]
    assert len(taken) == len(set(taken)), "panels lie on each other"


@ensureDeferred
async def test_expressions_are_about_metrics_and_labels_that_exist() -> None:
    labels = {metric.name: metric.label for metric in METRICS}
    there = {pair for _, pairs in (await Watch(Node().chat).look()).samples for pair in pairs}
    for expression in expressions():
        assert named(expression) <= KNOWN, expression
        assert balanced(expression), expression
        for name, label, value in labels_of(expression):
            (metric,) = named(name)
            assert labels[metric] == label, expression
            assert all((label, part) in there for part in value.split("|")), expression
        for by in re.findall(r"by \(([^)]*)\)", expression):
            for label in set(by.split(", ")) - {"le", "instance"}:
                assert label in {*labels.values(), "generation"}, expression


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    guide = (ROOT / "docs/alerts.md").read_text("utf-8")
    assert re.findall(r"^## (\w+)$", guide, re.MULTILINE) == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert 'job="mercury"' in rule["expr"]
    settings = (ROOT / "docs/configuration.md").read_text("utf-8")
    for flag in re.findall(r"`--([a-z.-]+)`", guide):
        assert f"`{flag}`" in settings, flag


def test_the_example_scrapes_what_the_alerts_are_about() -> None:
    example = yaml.safe_load(SCRAPING.read_text("utf-8"))
    assert example["rule_files"] == [ALERTS.name]
    (job,) = example["scrape_configs"]
    assert job["job_name"] == "mercury"
    promtool = shutil.which("promtool")
    if promtool:
        subprocess.run([promtool, "check", "config", str(SCRAPING)], check=True)


@pytest.mark.parametrize("wrong", ["sum(x", "x[5m}", 'x{a="b}', "x)("])
def test_what_is_not_closed_is_found(wrong: str) -> None:
    assert not balanced(wrong)
    assert balanced('sum by (a) (rate(x{a=~"(|["}[5m]))')
