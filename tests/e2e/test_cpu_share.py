"""Workers that share a host's CPU divide its cores, as they come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  threads: {handler: "tests/e2e/handlers.py:Threads", versions: {"1": {}}, batch: {max_size: 1}}
"""


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def told(http: httpx.Client, name: str) -> int:
    """By the worker of that name; 0 when another was quicker."""
    answer = http.post("/inference", json={"model_type": "threads", "data": {}}).json()
    return answer["output"]["n"] if answer["timing"]["worker"] == name else 0


def test_one_more_worker_leaves_fewer_threads_to_the_others(
    http: httpx.Client, redis_url: str, models: Path, tmp_path: Path
) -> None:
    folder = {"ML_LOCK_DIR": str(tmp_path / "locks")}
    with ExitStack() as stack, worker(redis_url, models, "w1", **folder):
        alone = told(http, "w1")
        assert alone > 0
        second = stack.enter_context(worker(redis_url, models, "w2", **folder))
        wait_until(lambda: told(http, "w1") == max(1, alone // 2), what="the first has its part")
        wait_until(lambda: told(http, "w2") == max(1, alone // 2), what="the second has its part")
        second.kill()
        second.wait()
        wait_until(lambda: told(http, "w1") == alone, timeout_s=60, what="the first has all again")
    with worker(redis_url, models, "w1", ML_TORCH_THREADS="3", **folder):
        wait_until(lambda: told(http, "w1") == 3, what="what is asked for goes first")
