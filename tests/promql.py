"""What the dashboard and the alerts ask of Prometheus, taken apart: which metrics, with which labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "ml-service.json"
TARGET_LABELS = frozenset(("job", "instance"))  # Prometheus's own, of whatever it scrapes


def alerts() -> dict[str, dict[str, Any]]:
    """The rules by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    """Of the dashboard, without its rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries(*, interval: str = "5m") -> dict[str, str]:
    """By the panel's title and the query's letter, with Grafana's variables set to all."""
    return {
        f"{panel['title']} {target['refId']}": _filled(target["expr"], interval)
        for panel in panels()
        for target in panel["targets"]
    }


def variables() -> dict[str, tuple[str, str]]:
    """The dashboard's own variables: the selector and the label whose values they offer."""
    found = {}
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            (pair,) = re.findall(r"^label_values\((.*), (\w+)\)$", variable["definition"])
            assert variable["query"]["query"] == variable["definition"]
            found[variable["name"]] = (_filled(pair[0], "5m"), pair[1])
    return found


def _filled(query: str, interval: str) -> str:
    query = query.replace("$__rate_interval", interval)
    query = re.sub(r"\$(model|version|worker)\b", ".*", query)
    assert "$" not in query, query
    return query


@dataclass(frozen=True)
class Selector:
    """One metric in a query. `labels`: all that the query expects of it; `equal`: those with one value."""

    name: str
    labels: frozenset[str]
    equal: dict[str, str] = field(default_factory=dict, hash=False)


def selectors(query: str) -> Iterator[Selector]:
    """Raises ValueError for what is no PromQL."""
    yield from _walk(promql.parse(query), frozenset())


def _walk(node: Any, wanted: frozenset[str]) -> Iterator[Selector]:
    """`wanted`: labels that what stands around asks for."""
    match node:
        case promql.MatrixSelector():
            yield from _walk(node.vector_selector, wanted)
        case promql.VectorSelector():
            matchers = node.matchers.matchers
            equal = {one.name: one.value for one in matchers if one.op == promql.MatchOp.Equal}
            yield Selector(node.name, wanted | {one.name for one in matchers}, equal)
        case promql.AggregateExpr():
            by = node.modifier is not None and node.modifier.type == promql.AggModifierType.By
            # What it does not keep, nobody outside can ask for.
            yield from _walk(node.expr, frozenset(node.modifier.labels) if by else wanted)
        case promql.Call():
            more = frozenset(("le",)) if node.func.name == "histogram_quantile" else frozenset()
            for argument in node.args:
                yield from _walk(argument, wanted | more)
        case promql.BinaryExpr():
            matching = node.modifier.matching if node.modifier is not None else None
            on = frozenset(matching.labels) if matching is not None else frozenset()
            yield from _walk(node.lhs, wanted | on)
            yield from _walk(node.rhs, wanted | on)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _walk(node.expr, wanted)
        case promql.NumberLiteral() | promql.StringLiteral():
            pass
        case _:
            raise ValueError(f"{type(node).__name__} in a query: tell tests/promql.py what it is made of")


class Exposition:
    """What one or several processes tell."""

    def __init__(self, *texts: str) -> None:
        self.families = {family.name: family for text in texts for family in text_string_to_metric_families(text)}
        self.samples = [
            sample for text in texts for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def missing(self, query: str) -> list[str]:
        """What the query asks for that is not told, in words."""
        found = []
        for selector in selectors(query):
            if selector.name == "up":  # Prometheus's own
                continue
            fitting = [sample for sample in self.samples if sample.name == selector.name]
            known = {label for sample in fitting for label in sample.labels}
            if not fitting:
                found.append(f"no metric {selector.name}")
            elif unknown := selector.labels - known - TARGET_LABELS:
                found.append(f"{selector.name} has no label {', '.join(sorted(unknown))}")
            for label, value in selector.equal.items():
                if fitting and label in known and not any(sample.labels.get(label) == value for sample in fitting):
                    found.append(f"no {selector.name} with {label}={value}")
        return found

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())
