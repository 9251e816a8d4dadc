"""A real Flower in front of the stack: what it lists is true, and its revoke button ends a job for who waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.server import EmbeddedServer
from tests.conftest import wait_until
from tests.processes import flower_process


@pytest.fixture
def flower(stack: str, stack_server: EmbeddedServer, models_file: Path) -> Iterator[httpx.Client]:
    with flower_process(stack_server.url, models_file) as client:
        yield client


def test_flower_lists_the_truth_and_can_revoke(flower: httpx.Client, http: httpx.Client) -> None:
    def post(**body: Any) -> str:
        job_id: str = http.post("/v1/jobs", json={"model": "echo", "input": 1} | body).json()["id"]
        return job_id

    def task(job_id: str) -> dict[str, Any]:
        answer = flower.get(f"/api/task/info/{job_id}")
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    # A probe first: Flower hears events only from some moment after it is up.
    wait_until(lambda: task(post()).get("state"), what="Flower hears events")
    slow = post(parameters={"sleep_ms": 1500})
    wait_until(lambda: task(slow).get("state") == "STARTED")
    failed, canceled, revoked = post(parameters={"fail": "x"}), post(), post()
    http.delete(f"/v1/jobs/{canceled}")
    assert flower.post(f"/api/task/revoke/{revoked}").status_code == 200
    ended = http.get(f"/v1/jobs/{revoked}", params={"wait": 20}).json()
    assert ended["state"] == "canceled"
    states = {slow: "SUCCESS", failed: "FAILURE", canceled: "REVOKED", revoked: "REVOKED"}
    wait_until(lambda: {job: task(job).get("state") for job in states} == states, what="the right states")
    assert 1.4 < task(slow)["runtime"] < 5
    assert "predict_error" in task(failed)["exception"]
