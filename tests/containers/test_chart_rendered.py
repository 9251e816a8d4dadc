"""The Helm chart rendered, by `make chart-test`: linted, held to the schemas of Kubernetes, KEDA and the Prometheus
operator, and to rules of our own. No cluster is there to run it."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.catalog import load_catalog
from shared.settings import load_settings
from tests import promql
from tests.containers import charts
from tests.containers.charts import CASES, CHART, ROOT

pytestmark = pytest.mark.chart

HELM = [str(ROOT / "scripts" / "helm.sh")]
SCHEMAS = [str(ROOT / ".venv-chart" / "bin" / "python"), str(ROOT / "tests" / "containers" / "chart_schemas.py")]
VERSIONS = ["1.28", "1.31", "1.37"]  # the oldest that the chart allows, and later ones
NAMESPACE = "models"
METRICS = (ROOT / "docs" / "operations.md").read_text()


def files(name: str) -> list[str]:
    return [] if name == "default" else ["-f", str(CHART / "examples" / f"{name}.yaml")]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HELM, *arguments], capture_output=True, text=True, check=False)


@functools.cache
def rendered(name: str, *more: str) -> str:
    done = helm("template", "it", str(CHART), "--namespace", NAMESPACE, *files(name), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(name: str, *more: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(rendered(name, *more)) if one]


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def templates(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of all pods, by what makes them."""
    pods = {}
    for one in found:
        if one["kind"] in ("Deployment", "StatefulSet"):
            pods[one["metadata"]["name"]] = one["spec"]["template"]
        if one["kind"] == "CronJob":
            pods[one["metadata"]["name"]] = one["spec"]["jobTemplate"]["spec"]["template"]
    return pods


def workers(name: str) -> dict[str, dict[str, Any]]:
    return {pod: one for pod, one in templates(objects(name)).items() if "-worker-" in pod}


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def refused(*more: str) -> str:
    done = helm("template", "it", str(CHART), *more)
    assert done.returncode != 0, "it is taken"
    return done.stderr


@pytest.mark.parametrize("name", CASES)
def test_helm_finds_nothing(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), *files(name))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("name", CASES)
def test_objects_follow_the_schemas(name: str) -> None:
    done = subprocess.run(
        [*SCHEMAS, ",".join(VERSIONS)], input=rendered(name), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(objects(name))} objects" in done.stdout


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("replikas:", "maxReplicaCount:"),
        ("maxReplicaCount: many #", "maxReplicaCount:"),
        ("endpointz:", "endpoints:"),
        ("terminationGracePeriod:", "terminationGracePeriodSeconds:"),
        ("podSelektor:", "podSelector:"),
    ],
)
def test_the_schemas_catch_what_is_wrong(wrong: str, right: str) -> None:
    text = rendered("gpu-and-cpu")
    assert right in text
    spoilt = text.replace(right, wrong)
    done = subprocess.run([*SCHEMAS, VERSIONS[-1]], input=spoilt, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("poolDefaults.autoscaling.enabled=true", "jobsPerSecond: what one worker does"),
        (
            "pools.a.models={@local},poolDefaults.autoscaling.enabled=true,poolDefaults.autoscaling.jobsPerSecond=1",
            "name the models",
        ),
        ("redis.bundled.enabled=false", "where Redis is"),
        ("redis.url=http://redis", "url"),
        ("settings.ML_PORT=1", "ML_PORT"),
        ("pools.a.gpu.count=2", "count"),
        ("pools.a.replica=2", "replica"),
        ("api.ingress.enabled=true", "api.ingress.host"),
        ("monitoring.serviceMonitor.enabled=true", "apiKeySecret.name: with api.auth=on"),
    ],
)
def test_wrong_values_are_refused_by_name(values: str, why: str) -> None:
    assert why in refused("--set", values)


@pytest.mark.parametrize("name", CASES)
def test_pods_are_hardened(name: str) -> None:
    for pod, template in templates(objects(name)).items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, pod
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"], pod
            assert container["resources"]["requests"], pod


@pytest.mark.parametrize("name", CASES)
def test_passwords_are_files(name: str) -> None:
    for pod, template in templates(objects(name)).items():
        (container,) = template["spec"]["containers"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in template["spec"]["volumes"]} | {"data"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, pod
        for variable in container.get("env", ()):
            if "PASSWORD" in variable["name"]:
                assert str(Path(variable["value"]).parent) in mounts, pod
            assert "secretKeyRef" not in json.dumps(variable), f"{pod}: a secret in its environment"
    assert "requirepass" in rendered("default")
    for secret in of_kind(objects(name), "Secret").values():
        assert len(secret["data"]["password"]) > 40


@pytest.mark.parametrize("name", CASES)
def test_nobody_is_killed_before_his_grace_is_over(name: str, tmp_path: Path) -> None:
    found = objects(name)
    file = tmp_path / "models.yaml"
    file.write_text(of_kind(found, "ConfigMap")["it-ml-service-models"]["data"]["models.yaml"])
    models = load_catalog(file).models
    assert {*models} == {*charts.models(name)}
    for pool, one in charts.pools(name).items():
        template = workers(name)[f"it-ml-service-worker-{pool}"]
        grace = float(environment(template)["ML_GRACE_S"])
        assert template["spec"]["terminationGracePeriodSeconds"] >= grace + 15
        taken = [model for model in one["models"] if model in models] or models
        assert grace >= max(models[model].limits.timeout_s for model in taken), "the longest batch"
        (container,) = template["spec"]["containers"]
        assert container["livenessProbe"]["terminationGracePeriodSeconds"] < grace, "who is stuck is not waited for"
    api = templates(found)["it-ml-service-api"]["spec"]
    wait = float(api["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(environment({"spec": api})["ML_DRAIN_S"])
    assert api["terminationGracePeriodSeconds"] >= wait + drain + 10


@pytest.mark.parametrize("name", CASES)
def test_workers_have_what_their_pool_says(name: str) -> None:
    for pool, one in charts.pools(name).items():
        template = workers(name)[f"it-ml-service-worker-{pool}"]
        (container,) = template["spec"]["containers"]
        told = environment(template)
        assert told["ML_MODELS"] == ",".join(one["models"])
        gpu = bool(one["gpu"]["count"])
        assert told["ML_DEVICE"] == ("cuda" if gpu else "cpu")
        assert container["resources"]["limits"].get(one["gpu"]["resource"]) == (1 if gpu else None)
        limited = gpu or "cpu" in one["resources"]["limits"]
        threads = {"resourceFieldRef": {"resource": "requests.cpu"}}
        assert told.get("ML_TORCH_THREADS") == (None if limited else threads)
        for place in ("nodeSelector", "tolerations"):
            assert template["spec"].get(place, type(one[place])()) == one[place]
        assert container["image"].split("/")[-1].startswith(f"ml-service-{one['image']}:")


@pytest.mark.parametrize("name", CASES)
def test_the_service_takes_its_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the pods get it, but for files that are mounted there."""
    for pod, template in templates(objects(name)).items():
        if pod.endswith("-redis"):
            continue
        for variable, value in environment(template).items():
            if variable not in ("ML_REDIS_URL", "ML_REDIS_PASSWORD_FILE"):
                monkeypatch.setenv(variable, value if isinstance(value, str) else "1")
        settings = load_settings()
        if pod.endswith("-api"):
            assert (settings.host, settings.port, settings.auth) == ("0.0.0.0", 8001, "on")  # noqa: S104 - of the pod
        if "-worker-" in pod:
            assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 9101)  # noqa: S104 - likewise


@pytest.mark.parametrize("name", CASES)
def test_selectors_find_pods(name: str) -> None:
    found = objects(name)
    labels = [template["metadata"]["labels"] for template in templates(found).values()]
    services = of_kind(found, "Service")
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"):
        for one in of_kind(found, kind).values():
            spec = one["spec"]
            wanted = spec.get("podSelector", spec.get("selector", {}))
            wanted = wanted.get("matchLabels", wanted)
            assert any(wanted.items() <= pod.items() for pod in labels), one["metadata"]["name"]
    for one in of_kind(found, "ServiceMonitor").values():
        wanted = one["spec"]["selector"]["matchLabels"]
        (service,) = [s for s in services.values() if wanted.items() <= s["metadata"]["labels"].items()]
        assert {e["port"] for e in one["spec"]["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    for kind in ("ScaledObject", "HorizontalPodAutoscaler"):
        for one in of_kind(found, kind).values():
            target = one["spec"]["scaleTargetRef"]["name"]
            assert "replicas" not in of_kind(found, "Deployment")[target]["spec"], "an upgrade would set them back"


def test_only_the_service_reaches_redis_and_redis_nobody() -> None:
    policies = of_kind(objects("default"), "NetworkPolicy")
    every = policies["it-ml-service"]["spec"]
    assert every["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in every
    assert "egress" not in every
    (rule,) = policies["it-ml-service-redis"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": 6379, "protocol": "TCP"}]
    peers = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    labels = {name: pod["metadata"]["labels"] for name, pod in templates(objects("default")).items()}
    allowed = {name for name, its in labels.items() if any(peer.items() <= its.items() for peer in peers)}
    assert allowed == {f"it-ml-service-{name}" for name in ("api", "worker-default", "flower", "first-key")}
    for name in ("api", "worker"):
        blocks = json.dumps(policies[f"it-ml-service-{name}"]["spec"]["egress"])
        assert "169.254.0.0/16" in blocks, "not the cloud's metadata"
    assert "ipBlock" not in json.dumps(policies["it-ml-service-flower"])


def test_redis_gets_its_password_whole_and_in_no_command_line(tmp_path: Path) -> None:
    (container,) = templates(objects("default"))["it-ml-service-redis"]["spec"]["containers"]
    shell, option, script, *rest = container["command"]
    for folder in ("secrets/redis", "redis"):
        (tmp_path / folder).mkdir(parents=True)
        script = script.replace(f"/run/{folder}", str(tmp_path / folder))
    (tmp_path / "secrets" / "redis" / "password").write_text('a "quoted" back\\slash\n')
    server = tmp_path / "redis-server"
    server.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    server.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, option, script, *rest], capture_output=True, text=True, check=True, env={"PATH": path}
    )
    conf = tmp_path / "redis" / "redis.conf"
    assert conf.read_text() == 'requirepass "a \\"quoted\\" back\\\\slash"\n'
    assert conf.stat().st_mode & 0o077 == 0
    given = done.stdout.split("|")[:-1]
    assert given[0] == str(conf)
    assert dict(zip(given[1::2], given[2::2], strict=True)) == {
        "--dir": "/data",
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory": "1gb",
        "--maxmemory-policy": "noeviction",
    }


def test_an_external_redis_is_the_only_one() -> None:
    found = objects("sentinel-tls")
    assert of_kind(found, "StatefulSet") == {}
    assert {*of_kind(found, "Secret")} == {"it-ml-service-flower"}
    told = environment(templates(found)["it-ml-service-api"])
    assert told["ML_REDIS_URL"] == charts.values("sentinel-tls")["redis"]["url"]
    by_secret = objects("default", "--set", "redis.bundled.enabled=false,redis.urlSecret.name=r")
    told = environment(templates(by_secret)["it-ml-service-api"])
    assert told["ML_REDIS_URL"] == {"secretKeyRef": {"name": "r", "key": "url"}}
    assert "ML_REDIS_PASSWORD_FILE" not in told


def test_alerts_and_dashboard_are_ours() -> None:
    found = objects("gpu-and-cpu")
    (rules,) = of_kind(found, "PrometheusRule").values()
    assert rules["spec"] == yaml.safe_load(promql.RULES.read_text())
    board = of_kind(found, "ConfigMap")["it-ml-service-dashboard"]
    assert json.loads(board["data"]["ml-service.json"]) == json.loads(promql.DASHBOARD.read_text())
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    endpoints = [end for one in of_kind(found, "ServiceMonitor").values() for end in one["spec"]["endpoints"]]
    jobs = {end["relabelings"][0]["replacement"] for end in endpoints}
    asked = {value for rule in promql.alerts().values() for value in re.findall(r'job="([\w-]+)"', rule["expr"])}
    assert asked <= jobs


def test_a_changed_model_restarts_the_api_and_no_worker() -> None:
    before, after = (templates(objects("default", "--set", f"models.bert.versions.{n}.source=a")) for n in (1, 2))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"it-ml-service-api"}


@pytest.mark.parametrize("name", CASES)
def test_another_version_of_the_chart_restarts_nobody(name: str) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    for pod, template in templates(objects(name)).items():
        assert f"ml-service-{version}" not in json.dumps(template["metadata"]), pod


def triggers(name: str) -> dict[str, dict[str, Any]]:
    (one,) = of_kind(objects(name), "ScaledObject").values()
    return {trigger["name"]: trigger for trigger in one["spec"]["triggers"]}


@pytest.mark.parametrize("name", ["gpu-and-cpu", "scale-to-zero"])
def test_triggers_are_those_of_kedas_prometheus_scaler(name: str) -> None:
    """Its metadata is an untyped map in the CRD: these are the keys that the scaler reads."""
    keys = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues", "authModes", "namespace"}
    for trigger in triggers(name).values():
        assert trigger["type"] == "prometheus"
        assert trigger["metricType"] == "AverageValue", "a fallback works for no other"
        assert {*trigger["metadata"]} <= keys
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert float(trigger["metadata"]["threshold"]) > 0
        for selector in promql.selectors(trigger["metadata"]["query"]):
            (labels,) = re.findall(rf"^\| `{selector.name}` \| \w+ \| (.*?) \|", METRICS, re.M)
            own = {*re.findall(r"`(\w+)`", labels)} | {
                "job",
                "instance",
                "namespace",
            }  # the last three are Prometheus's
            assert {*selector.labels} <= own, selector.name


def test_thresholds_are_told_in_a_workers_capacity() -> None:
    rule = charts.defaults()["autoscaling"]["presets"]["gpu"]
    found = {name: float(trigger["metadata"]["threshold"]) for name, trigger in triggers("gpu-and-cpu").items()}
    assert found == {"depth": 400 * rule["waitSeconds"], "rate": pytest.approx(400 * rule["busyShare"])}
    assert [float(t["metadata"]["activationThreshold"]) for t in triggers("gpu-and-cpu").values()] == [0, found["rate"]]


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    told = {"namespace": NAMESPACE, "job": "ml-api", "version": "1", **labels}
    labelled = ", ".join(f'{label}="{value}"' for label, value in told.items())
    return {"series": f"{name}{{{labelled}}}", "values": values}


def test_prometheus_answers_the_queries_as_they_are_meant(tmp_path: Path) -> None:
    """By promtool: two API processes tell the same, one model is paused, others are another pool's or release's."""
    ours = [
        row
        for instance in ("a", "b")
        for row in (
            series("ml_jobs", "0+30x60", model="detect", state="succeeded", instance=instance),
            series("ml_jobs", "7x60", model="detect", state="queued", instance=instance),
            series("ml_jobs", "2x60", model="detect", state="running", instance=instance),
            series("ml_jobs", "0+15x60", model="detect", state="delayed", instance=instance),
            series("ml_jobs", "0+60x60", model="speech", state="queued", instance=instance),
            series("ml_queue_oldest_seconds", "40x60", model="detect", instance=instance),
            series("ml_queue_oldest_seconds", "500x60", model="speech", instance=instance),
            series("ml_model_paused", "0x60", model="detect", instance=instance),
            series("ml_model_paused", "1x60", model="speech", instance=instance),
            series("ml_jobs", "0+99x60", model="other", state="queued", instance=instance),
            series("ml_jobs", "99x60", model="detect", state="queued", instance=instance, namespace="another"),
        )
    ]
    # 30 jobs of detect end every 15 s, so 2 a second come; speech is paused, and its 4 a second ask for nobody.
    expected = {"depth": 9.0, "rate": 2.0, "oldest": 40.0}
    queries = {name: trigger["metadata"]["query"] for name, trigger in triggers("scale-to-zero").items()}
    assert {*queries} == {*expected}
    cases = [
        {"expr": query, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": expected[name]}]}
        for name, query in queries.items()
    ]
    paused_too = objects("scale-to-zero", "--set", "pools.lazy.autoscaling.countPaused=true")
    (scaled,) = of_kind(paused_too, "ScaledObject").values()
    for trigger, value in zip(scaled["spec"]["triggers"], (9.0 + 2400, 6.0, 500.0), strict=True):
        expr = trigger["metadata"]["query"]
        cases.append({"expr": expr, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": value}]})
    # While Redis is away there is no answer, which is an error to KEDA; a nought would take workers away.
    away = [{"expr": query, "eval_time": "10m", "exp_samples": []} for query in queries.values()]
    tests = {
        "evaluation_interval": "15s",
        "tests": [
            {"interval": "15s", "input_series": ours, "promql_expr_test": cases},
            {"interval": "15s", "input_series": [series("up", "1x60")], "promql_expr_test": away},
        ],
    }
    file = tmp_path / "queries.test.yml"
    file.write_text(yaml.safe_dump(tests))
    command = [str(ROOT / "scripts" / "promtool.sh"), "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
