"""What can be told of the Helm chart without Helm; `make chart-test` renders it and holds it to others' schemas."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.app import create_app
from shared import redis_url
from shared.catalog import load_catalog
from shared.settings import Settings
from tests.containers import charts
from tests.containers.charts import CASES, CHART, EXAMPLES, ROOT, SET, TEMPLATES

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ALL = "\n".join(TEMPLATES.values())


def known(name: str) -> bool:
    return name == "MODEL_CACHE_DIR" or name.removeprefix("ML_").lower() in Settings.model_fields


@pytest.mark.parametrize("name", CASES)
def test_values_follow_their_schema(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(charts.values(name)))
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(CHART / "values.schema.json"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_knows_each_value_and_no_other() -> None:
    """Maps of names (settings, models, pools, labels) end the comparison."""

    def walk(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        inner = schema.get("properties")
        if inner is None:
            return
        assert schema["additionalProperties"] is False, path
        yield from (f"{path}.{name}" for name in {*inner} ^ {*value})
        for name in {*inner} & {*value}:
            yield from walk(inner[name], value[name], f"{path}.{name}")

    said = set(walk(SCHEMA, charts.defaults(), ""))
    # Helm's own, and what is of Kubernetes and seldom asked for.
    assert {one for one in said if one != ".global" and not one.endswith((".claims",))} == set()


def test_every_value_is_used() -> None:
    def leaves(value: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, one in value.items():
            yield name
            if isinstance(one, dict):
                yield from leaves(one)

    # What is rendered as a whole.
    whole = {"requests", "limits", "cpu", "memory", "labels", "annotations", "grafana_dashboard", "namespaceSelector"}
    for name in set(leaves(charts.defaults())) - whole:
        assert re.search(rf"\.{name}\b", ALL) or name in ("worker", "providers"), f"{name} is in no template"


def test_images_are_those_that_compose_builds() -> None:
    built = {name: service["image"] for name, service in COMPOSE.items() if "build" in service}
    assert charts.defaults()["images"] == {name: built[name] for name in ("api", "worker", "providers", "flower")}
    bundled = charts.defaults()["redis"]["bundled"]["image"]
    assert COMPOSE["redis"]["image"] == f"${{REDIS_IMAGE:-{bundled}}}"


def test_settings_that_the_chart_sets_are_settings() -> None:
    assert len(SET) > 10
    assert [name for name in SET if not known(name)] == []


def test_nobody_sets_what_the_chart_sets() -> None:
    refused = set(SCHEMA["properties"]["settings"]["propertyNames"]["not"]["enum"])
    assert SET - {"MODEL_CACHE_DIR"} <= refused
    assert [name for name in refused if not known(name) and name != "ML_MODEL_CACHE_DIR"] == []


@pytest.mark.parametrize("name", CASES)
def test_settings_of_the_values_are_settings(name: str) -> None:
    told = charts.values(name)["settings"]
    assert [one for one in told if not known(one)] == []
    Settings(**{one.removeprefix("ML_").lower(): value for one, value in told.items()})


@pytest.mark.parametrize("name", CASES)
def test_models_of_the_values_are_models_and_pools_take_them_all(name: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump({"models": charts.models(name)}))
    names = set(load_catalog(file).models)
    taken = [model for pool in charts.pools(name).values() for model in (pool["models"] or names)]
    assert {model for model in taken if not model.startswith("@")} <= names
    served = {model for model in taken if not model.startswith("@")}
    local = {model for model, spec in charts.models(name).items() if "openai:" not in json.dumps(spec)}
    assert served >= (local if "@local" not in taken else set()), "a model that nobody takes waits for ever"
    assert len(served) == len([model for model in taken if not model.startswith("@")]), "one pool each"


@pytest.mark.parametrize("name", EXAMPLES)
def test_redis_of_the_examples_can_be_read(name: str, tmp_path: Path) -> None:
    redis = charts.values(name)["redis"]
    if redis["bundled"]["enabled"]:
        assert redis["url"] == ""
        return
    mounted = f"{redis['tlsSecret']['mountPath']}/ca.crt"
    assert mounted in redis["url"], "the authority is where it is mounted"
    here = tmp_path / "ca.crt"
    here.touch()
    address = redis_url.parse(redis["url"].replace(mounted, str(here)))
    assert redis["url"].startswith("sentinel://")
    assert address.login.get("password") is None


def test_files_of_others_are_links_to_them() -> None:
    for name, to in {
        "alerts.yml": "deploy/prometheus/alerts.yml",
        "dashboard.json": "deploy/grafana/dashboards/ml-service.json",
        "models.yaml": "models.yaml",
    }.items():
        assert (CHART / "files" / name).resolve() == ROOT / to
        assert (CHART / "files" / name).is_symlink()


def test_redis_is_as_durable_as_composes() -> None:
    command = COMPOSE["redis"]["command"]
    for option in (word for word in command if word.startswith("--")):
        assert f"- {option}\n" in TEMPLATES["redis.yaml"], option
    assert '--save\n            - ""' in TEMPLATES["redis.yaml"]
    assert '--appendonly\n            - "yes"' in TEMPLATES["redis.yaml"]
    assert "--maxmemory-policy\n            - noeviction" in TEMPLATES["redis.yaml"]
    bundled = charts.defaults()["redis"]["bundled"]
    assert f"${{REDIS_MAXMEMORY:-{bundled['maxmemory']}}}" in command
    assert f"${{REDIS_APPENDFSYNC:-{bundled['appendfsync']}}}" in command
    assert (bundled["maxmemory"], bundled["resources"]["limits"]["memory"]) == ("1gb", "2Gi"), "rewriting forks"


def test_probes_ask_what_there_is() -> None:
    paths = {*create_app(Settings()).openapi()["paths"]}
    assert {*re.findall(r"path: (/[a-z]+)", TEMPLATES["api.yaml"])} == {"/livez", "/readyz"} <= paths
    assert {*re.findall(r"path: (/[a-z]+)", TEMPLATES["flower.yaml"])} == {"/healthcheck"}
    compose = COMPOSE["worker"]["healthcheck"]["test"]
    assert compose == ["CMD", "python", "-m", "worker", "healthcheck", "--replace"]
    commands = re.findall(r"exec: \{command: \[(.*)\]\}", TEMPLATES["workers.yaml"])
    assert commands == [", ".join(compose[1:-1])] * 2, "the kubelet kills: nothing is to be replaced from within"


def test_what_scaling_asks_for_is_told() -> None:
    told = set(re.findall(r"^\| `(ml_\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.M))
    asked = set(re.findall(r"\bml_[a-z_]+", TEMPLATES["scaledobjects.yaml"]))
    assert {"ml_jobs", "ml_queue_oldest_seconds", "ml_model_paused"} == asked <= told


def test_the_chart_is_told_where_it_is_looked_for() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    for name in EXAMPLES:
        assert f"deploy/kubernetes/examples/{name}.yaml" in page
    for name in re.findall(r"`((?:api|poolDefaults|redis|flower|networkPolicy|monitoring|autoscaling)\.[\w.]+)`", page):
        value: Any = charts.defaults()
        for part in name.split("."):
            assert part in value, f"{name} is no value"
            value = value[part]
