"""The README and the pages of docs/ do not lie: their links lead somewhere, their tables name what the code has, and
what can be run of their examples runs."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from api.app import create_app
from api.errors import STATUS
from api.schemas import InferenceAnswer, InferenceRequest, JobRequest
from api.schemas_operators import Worker
from local.__main__ import parse
from shared.catalog import load_catalog
from shared.fallback import FallbackSpec
from shared.model_spec import BatchSpec, CelerySpec, Limits, ModelSpec, VersionSpec
from shared.settings import Settings
from shared.types import Job
from worker.handler import ItemError
from worker.testing import run_handler

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
API = ROOT / "docs" / "api.md"
OPERATIONS = ROOT / "docs" / "operations.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAYLOADS = ROOT / "docs" / "payloads.md"
BATCHES = ROOT / "docs" / "batches.md"
CLI = ROOT / "docs" / "cli.md"
PAGES = [
    README,
    CONFIGURATION,
    API,
    BATCHES,
    CLI,
    ARCHITECTURE,
    OPERATIONS,
    PAYLOADS,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
]
MODEL_YAML = [
    (page.name, index)
    for page in (README, CONFIGURATION)
    for index in range(len(page.read_text().split("```yaml")) - 1)
]

PAGES += [
    ROOT / "docs" / f"{name}.md"
    for name in ("client", "clients", "migrate-celery", "quickstart", "concepts", "guarantees")
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def table(page: Path, heading: str) -> dict[str, list[str]]:
    """The cells by the first name in backticks of the first table after `heading`."""
    rows: dict[str, list[str]] = {}
    for line in page.read_text().split(heading, 1)[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].split("`")[1]] = cells[1:]
        elif rows:
            break
    return rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings], link


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`|    )make ([a-z-]+)", README.read_text(), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "TORCH_INDEX_URL" in makefile


def test_files_that_it_names_exist() -> None:
    for name in ("docker-compose.yml", ".env.example", "tests/containers/cat.jpg", "LICENSE"):
        assert (ROOT / name).exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    for row in re.findall(r"^\| `([a-z]+/)` \|", README.read_text(), re.MULTILINE):
        assert (ROOT / row).is_dir(), row


def test_settings_are_all_told_with_their_defaults() -> None:
    rows = table(CONFIGURATION, "## Settings")
    names = {"MODEL_CACHE_DIR" if n == "model_cache_dir" else f"ML_{n.upper()}" for n in Settings.model_fields}
    assert set(rows) == names
    for name, field in Settings.model_fields.items():
        told = rows["MODEL_CACHE_DIR" if name == "model_cache_dir" else f"ML_{name.upper()}"][0]
        if name in ("worker_name", "lock_dir", "model_cache_dir"):
            continue  # made at start, or none
        default = field.default
        if default is None:
            assert told == "-"
        elif isinstance(default, float) and default < 1000:
            assert told == f"`{default:g}`"
        else:
            assert told == f"`{default}`".replace(".0`", "`")


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("A model:", ModelSpec),
        ("A version:", VersionSpec),
        ("`batch`:", BatchSpec),
        ("`limits`:", Limits),
        ("### Tasks of a backend", CelerySpec),
        ("### Fallback", FallbackSpec),
    ],
)
def test_fields_of_the_models_file_are_all_told(heading: str, model: Any) -> None:
    rows = table(CONFIGURATION, heading)
    assert set(rows) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if model in (BatchSpec, Limits) and name != "per_key":
            assert rows[name][0] == f"`{field.default}`"


@pytest.mark.parametrize(("page", "index"), MODEL_YAML)
def test_models_files_are_valid(page: str, index: int, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(blocks(README if page == README.name else CONFIGURATION, "yaml")[index])
    assert load_catalog(path).models


def test_options_of_up_are_told() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "local", "up", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    options = set(re.findall(r"--[a-z-]+", run.stdout)) - {"--help", "--reload"}
    assert all(f"`{option}`" in CONFIGURATION.read_text() for option in options)
    assert parse(["up", "--workers", "2"]).workers == 2


def test_python_can_be_read() -> None:
    sources = blocks(README, "python")
    assert len(sources) == 5
    for source in sources:
        ast.parse(source)


@pytest.fixture
def churn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's repository with the README's handler, its test and some weights."""
    source, test = (block for block in blocks(README, "python") if "churn" in block)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "churn.py").write_text(source)
    (tmp_path / "test_churn.py").write_text(test)
    weights = {"weight": torch.tensor([[-0.5, 0.8]]), "bias": torch.tensor([0.1])}
    save_file(weights, tmp_path / "my" / "churn.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name == "my" or name.startswith("my.")]:
        del sys.modules[name]


def test_the_readmes_own_model_runs(churn: Path) -> None:
    source = (churn / "my" / "churn.py").read_text().splitlines()
    assert len([line for line in source if line]) <= 30
    module = importlib.import_module("my.churn")
    calm, angry, wrong = run_handler(
        module.Churn,
        [{"months": 40, "tickets": 0}, {"months": 1, "tickets": 9}, {"months": 0, "tickets": 0}],
        source="my/churn.safetensors",
    )
    assert not isinstance(calm, ItemError)
    assert calm["churn"] < 0.01 < wrong["churn"] < 0.99 < angry["churn"]


@pytest.mark.long
def test_the_readmes_test_of_it_passes(churn: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(churn), "test_churn.py"],
        cwd=churn,
        env=os.environ | {"PYTHONPATH": f"{churn}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


def test_the_readmes_curl_bodies_are_requests() -> None:
    bodies = re.findall(r"curl \S*/(inference|v1/jobs) +-d '(.*)'", README.read_text())
    assert [path for path, _ in bodies] == ["inference", "v1/jobs"]
    InferenceRequest.model_validate_json(bodies[0][1])
    JobRequest.model_validate_json(bodies[1][1])


def test_the_http_contracts_examples_are_what_the_code_takes_and_gives() -> None:
    asked, answered, queued, job, worker = (json.loads(block) for block in blocks(API, "json"))
    InferenceRequest.model_validate(asked)
    JobRequest.model_validate(queued)
    InferenceAnswer.model_validate(answered)
    TypeAdapter(Job).validate_python(job)
    assert set(job) == set(Job.model_fields)
    Worker.model_validate(worker)
    assert set(worker) == set(Worker.model_fields)


def test_the_http_contract_tells_every_code_with_its_status() -> None:
    assert {code: int(cells[0]) for code, cells in table(API, "Act on `code`").items()} == STATUS


def test_the_http_contract_tells_every_route() -> None:
    paths = create_app(Settings(models_file=ROOT / "models.yaml")).openapi()["paths"]
    text = API.read_text().replace("{name}", "{model_id}").replace("{id}", "{job_id}")
    for path in paths:
        assert path in text, path


def test_the_http_contract_tells_every_field_of_a_request() -> None:
    rows = table(API, "## Queue")
    assert set(rows) == set(JobRequest.model_fields)


def test_architecture_tells_every_script() -> None:
    preludes = {"stored", "prelude", "prelude_counts", "prelude_webhooks", "prelude_jobs", "prelude_batches"}
    files = {path.stem for path in (ROOT / "shared" / "lua").glob("*.lua")} - preludes
    assert set(table(ARCHITECTURE, "## The scripts")) == files
    without = {name for name in files if "allow-oom" not in (ROOT / "shared" / "lua" / f"{name}.lua").read_text()}
    assert without == {"submit", "retry", "progress", "say", "file_add", "batch_open", "batch_append", "batch_seal"}
