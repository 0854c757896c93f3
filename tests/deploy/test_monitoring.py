"""The dashboard and the alerts: they ask for metrics that the service has, and say what they should."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from manager.state import ModelState
from tests.deploy.serving import DEPLOY, serving
from tests.e2e.conftest import _left_children_fail as _left_children_fail
from tests.e2e.test_https import tls

PROMETHEUS: Final = DEPLOY / "prometheus"
DASHBOARD: Final = json.loads((DEPLOY / "grafana" / "llamaherd.json").read_text())
ALERTS: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DOCS: Final = DEPLOY.parent / "docs"
COLUMNS: Final = 24  # of Grafana
# What Prometheus adds to every sample, and its own metric of a scrape.
ADDED: Final = {"job", "instance"}
UP: Final = "up"
# Functions for counters alone.
OF_COUNTERS: Final = {"rate", "irate", "increase"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every expression with the place where it stands, as PromQL: Grafana's variables have values."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", re.sub(r"\$__rate_interval", "5m", target["expr"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert found, variable
            yield f"variable {variable['name']}", f"sum by ({found[2]}) ({found[1]})"
    for rule in ALERTS:
        yield f"alert {rule['alert']}", rule["expr"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """/metrics of a service with HTTPS that has answered a stream."""
    folder = tmp_path_factory.mktemp("monitored")
    tls(folder, "self-signed", "localhost")
    trusting = ssl.create_default_context(cafile=folder / "ssl" / "llamaherd-ca.pem")
    chat = {"model": "fake", "messages": [{"role": "user", "content": "one two"}], "stream": True}
    with serving(folder, {"LLAMAHERD_TLS__HOST": "localhost"}) as service:
        connection = http.client.HTTPSConnection("localhost", urlsplit(service.url).port, context=trusting)

        def ask(method: str, path: str, body: object = None) -> str:
            connection.request(method, path, json.dumps(body), {"Authorization": f"Bearer {service.key}"})
            return connection.getresponse().read().decode()

        with closing(connection):
            assert "[DONE]" in ask("POST", "/v1/chat/completions", chat)
            return ask("GET", "/metrics")


@pytest.fixture(scope="module")
def exported(page: str) -> dict[str, set[str]]:
    """Every series of the service with its labels: names from its page, labels from docs/metrics.md."""
    text = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", text, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    found = {"llamacpp:" + name: {"model"} for name in re.findall(r"`llamacpp:(\w+)`", text)}
    for family in text_string_to_metric_families(page):
        if family.name.startswith("llamacpp:"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kind, labels = told[name]
        assert kind == family.type, name
        if kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            found[name] = labels
        for sample in family.samples:  # what is told is what is exported
            assert sample.labels.keys() <= found[sample.name], sample
    return found | {UP: set()}


class Looked:
    """What an expression asks for: series with the labels that are matched, and labels that are grouped by."""

    def __init__(self, text: str) -> None:
        self.series: list[tuple[str, set[str]]] = []
        self.grouped: set[str] = set()
        self.counted: set[str] = set()  # series within rate() and the like
        self._look(promql.parse(text))

    def _look(self, node: object, function: str = "") -> None:
        match node:
            case promql.VectorSelector():
                labels = {matcher.name for matcher in node.matchers.matchers}
                self.series.append((str(node.name), labels))
                if function in OF_COUNTERS:
                    self.counted.add(str(node.name))
            case promql.MatrixSelector():
                self._look(node.vector_selector, function)
            case promql.AggregateExpr():
                self.grouped |= set(node.modifier.labels) if node.modifier else set()
                self._look(node.expr)
            case promql.Call():
                for argument in node.args:
                    self._look(argument, node.func.name)
            case promql.BinaryExpr():
                matching = node.modifier.matching if node.modifier else None
                self.grouped |= set(matching.labels) if matching else set()
                self._look(node.lhs)
                self._look(node.rhs)
            case promql.ParenExpr() | promql.UnaryExpr():
                self._look(node.expr)
            case promql.NumberLiteral() | promql.StringLiteral():
                pass
            case _:
                raise AssertionError(f"a kind of expression that is not looked into: {node}")


def test_only_metrics_and_labels_that_there_are_are_asked_for(exported: dict[str, set[str]]) -> None:
    for place, text in queries():
        looked = Looked(text)
        assert looked.series, place
        for name, labels in looked.series:
            assert name in exported, f"{place} asks for {name}"
            assert labels <= exported[name] | ADDED, f"{place}: labels of {name}"
            assert looked.grouped <= exported[name] | ADDED, f"{place}: grouped by labels that {name} has not"
        assert all(name.endswith(("_total", "_bucket", "_sum", "_count")) for name in looked.counted), place


def test_an_unknown_metric_or_a_label_of_another_one_would_be_found(exported: dict[str, set[str]]) -> None:
    looked = Looked('sum by (device) (rate(llamaherd_requests_total{outcome="ok", route="/x"}[5m])) > llamaherd_oops')
    assert looked.series == [("llamaherd_requests_total", {"outcome", "route"}), ("llamaherd_oops", set())]
    assert "llamaherd_oops" not in exported
    assert "route" not in exported["llamaherd_requests_total"]
    assert looked.grouped == {"device"}
    assert looked.counted == {"llamaherd_requests_total"}


def test_outcomes_and_states_that_are_matched_are_real_ones() -> None:
    text = (DOCS / "metrics.md").read_text()
    outcomes = {"ok", "left", "cancelled", "queue_full"}
    assert all(f"`{outcome}`" in text for outcome in outcomes)
    for place, query in queries():
        for label, value in re.findall(r'\b(outcome|state)[=!]~?"([^"$]+)"', query):
            allowed = outcomes if label == "outcome" else set(ModelState)
            assert set(value.split("|")) <= allowed, place


def test_panels_have_a_title_a_unit_and_a_place_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    boxes = [(panel["title"], panel["gridPos"]) for panel in DASHBOARD["panels"]]
    for title, box in boxes:
        assert box["x"] + box["w"] <= COLUMNS, title
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one} and {other} overlap"


def test_the_data_source_is_a_variable_everywhere() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    owners = [*panels(), *(target for panel in panels() for target in panel["targets"])]
    owners += [variable for variable in variables.values() if variable["type"] == "query"]
    assert {owner["datasource"]["uid"] for owner in owners} == {"${datasource}"}
    used = {name for _, query in queries() for name in re.findall(r"\$(\w+)", query)}
    assert used <= variables.keys()


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yml"))
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert all((PROMETHEUS / file).is_file() for file in config["rule_files"])
    (scraped,) = config["scrape_configs"]
    assert f'job="{scraped["job_name"]}"' in next(rule["expr"] for rule in ALERTS if UP in rule["expr"])


def test_each_alert_goes_off_where_it_should_and_stays_calm_where_not(tmp_path: Path) -> None:
    played = Path(__file__).with_name("alerts_test.yml")
    for file in (PROMETHEUS / "alerts.yml", played):
        shutil.copy(file, tmp_path)
    promtool("test", "rules", str(tmp_path / played.name))
    tested = {
        test["alertname"]
        for group in yaml.safe_load(played.read_text())["tests"]
        for test in group["alert_rule_test"]
        if test.get("exp_alerts")
    }
    assert tested == {rule["alert"] for rule in ALERTS}


def test_each_alert_says_how_bad_it_is_and_what_has_happened() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["alert"] in (DOCS / "monitoring.md").read_text()
