"""What can be told of the workflows of GitHub Actions without GitHub: the repository's own, and the one to copy."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OWN, TEMPLATE = ROOT / ".github/workflows/ci.yml", ROOT / "examples/ci/workflow.yml"
WORKFLOWS = [OWN, TEMPLATE]


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["jobs"]
    return found


def commands(file: Path) -> list[str]:
    return [step["run"] for job in jobs(file).values() for step in job["steps"] if "run" in step]


def passed(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_they_follow_the_schema(file: Path) -> None:
    passed(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(file))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_they_may_do_little_end_in_time_and_use_what_cannot_be_moved(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
    assert {right for job in workflow["jobs"].values() for right in job.get("permissions", {}).items()} <= {
        ("contents", "read"),
        ("security-events", "write"),
    }
    used = re.findall(r"uses: (.*)", file.read_text())
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used), used


def test_an_action_is_the_same_commit_wherever_it_is_used() -> None:
    used = {one.partition("@")[::2] for file in WORKFLOWS for one in re.findall(r"uses: (.*)", file.read_text())}
    assert len(used) == len({name for name, _ in used})


def test_ours_runs_what_must_pass_and_builds_every_image() -> None:
    must = re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text(), re.M)
    assert must
    assert jobs(OWN)["make"]["strategy"]["matrix"]["target"] == must
    assert jobs(OWN)["image"]["strategy"]["matrix"]["file"] == sorted(file.name for file in ROOT.glob("Dockerfile*"))
    assert commands(OWN) == [
        "make ${{ matrix.target }}",
        "docker build -f ${{ matrix.file }} "
        "${{ vars.TORCH_INDEX_URL && '--build-arg TORCH=cpu --build-arg TORCH_INDEX_URL' || '' }} -t scanned .",
    ]


def test_the_model_to_copy_passes_the_check_that_its_workflow_runs() -> None:
    check = next(command for command in commands(TEMPLATE) if command.endswith("worker check"))
    *_, python, _, module, argument = shlex.split(check)
    assert python == "python"
    models = "examples/ci/models.yaml"
    assert "shout@1  ok" in passed("env", f"ML_MODELS_FILE={models}", sys.executable, "-m", module, argument)


def test_its_dockerfile_copies_the_files_beside_it_onto_our_image() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    passed(str(tool), "examples/ci/Dockerfile")
    text = (ROOT / "examples/ci/Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY (.*)$", text, re.M)
    *sources, target = copied.split()
    assert all((TEMPLATE.parent / source).is_file() for source in sources)
    assert f"ENV ML_MODELS_FILE={target}models.yaml" in text
