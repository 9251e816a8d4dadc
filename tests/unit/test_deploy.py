"""Alert rules and dashboard, as far as they can be judged without a service: tests/e2e/test_metrics.py has one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import promql

TESTS = yaml.safe_load((promql.DEPLOY / "prometheus" / "alerts.test.yml").read_text())["tests"]
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.mark.parametrize(("name", "rule"), promql.alerts().items())
def test_each_alert_says_how_bad_it_is_and_where_to_read(name: str, rule: dict[str, Any]) -> None:
    assert list(promql.selectors(rule["expr"]))
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"


@pytest.mark.parametrize("name", promql.alerts())
def test_each_alert_is_tried_firing_and_silent(name: str) -> None:
    cases = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == name]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


def test_each_alert_has_its_runbook_and_no_runbook_is_left_over() -> None:
    text = OPERATIONS.read_text().split("\n## Alerts\n", 1)[1].partition("\n## ")[0]
    sections = {part.partition("\n")[0]: part for part in text.split("\n### ")[1:]}
    assert list(sections) == list(promql.alerts()), "in the order of the rules"
    for name, section in sections.items():
        for word in ("Means", "Look at", "Do"):
            assert f"**{word}**" in section, (name, word)


def test_what_the_rules_expect_is_what_the_runbooks_link_to() -> None:
    """A summary may show a label only where its expression keeps it."""
    for name, rule in promql.alerts().items():
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        kept = [selector.labels for selector in promql.selectors(rule["expr"])]
        raw = {"instance", "gpu", "worker"} if " by " not in rule["expr"] else set()
        for labels in kept:
            assert shown <= labels | raw, name


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(promql.DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert set(promql.variables()) == {"model", "version", "worker"}
    places = set()
    for panel in promql.panels():
        assert panel["datasource"]["uid"] == "${datasource}", "it can be imported into any Grafana"
        assert panel["title"]
        assert panel["targets"]
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & places, f"{panel['title']} lies on another panel"
        places |= cells


@pytest.mark.parametrize(("title", "query"), promql.dashboard_queries().items())
def test_each_query_of_the_dashboard_is_one(title: str, query: str) -> None:
    assert list(promql.selectors(query)), title


def test_queries_are_taken_apart_as_prometheus_reads_them() -> None:
    query = 'sum by (model) (rate(a_total{outcome="x", model=~"m"}[5m])) / on (model) max by (model, v) (b) > 0.5'
    first, second = promql.selectors(query)
    assert (first.name, first.labels, first.equal) == ("a_total", {"model", "outcome"}, {"outcome": "x"})
    assert (second.name, second.labels) == ("b", {"model", "v"})
    (quantile,) = promql.selectors("histogram_quantile(0.9, rate(h_bucket[5m]))")
    assert quantile.labels == {"le"}
    seen = promql.Exposition('# TYPE a counter\na_total{model="m",outcome="y"} 1\n')
    assert seen.missing(query) == ["no a_total with outcome=x", "no metric b"]
    assert seen.missing("sum by (worker) (a_total)") == ["a_total has no label worker"]
