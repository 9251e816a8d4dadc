"""Real workers, each with a GPU of its own: claimed by a lock that the kernel frees, told in card, metrics and Flower.

The GPUs are those of tests/fake_gpus.py, and what is served needs none. Real ones: tests/gpu.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from shared import keys
from tests.conftest import wait_until
from tests.fake_gpus import UUIDS, machine
from tests.processes import REPOSITORY, api, environment, flower_process, refused_worker, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
"""


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def _signs(store: redis.Redis) -> dict[str, dict[str, Any]]:
    """The living workers' own words, by name."""
    found = (orjson.loads(store.get(key)) for key in store.scan_iter(f"{keys.WORKER}*"))  # type: ignore[arg-type]
    return {sign["worker"]: sign for sign in found}


def _gpu_of(store: redis.Redis, name: str) -> int | None:
    """The index of this worker's GPU."""
    gpu = _signs(store)[name]["gpu"]
    assert gpu is None or gpu["uuid"] == UUIDS[gpu["index"]]
    return None if gpu is None else gpu["index"]


def _infos(url: str) -> list[dict[str, str]]:
    """The labels of `ml_worker_info`."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == "ml_worker_info"]
    assert all(sample.value == 1 for sample in samples)
    return [sample.labels for sample in samples]


def _refused(redis_url: str, models: Path, **env: str) -> str:
    """What a worker says that must not start: one line of error, and no traceback."""
    done = refused_worker(environment(redis_url, models, **env))
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    found = re.fullmatch(r"[\d:.]+ ERROR +worker +config_refused +error=(.*)", line)
    assert found, line
    told: str = json.loads(found[1])
    return told


def test_as_many_workers_as_gpus_and_everything_tells_which(
    redis_url: str, models: Path, store: redis.Redis, locks: Path
) -> None:
    names, env = ("a", "b", "c"), machine(locks)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(worker(redis_url, models, name, **env)) for name in names]
        assert [_gpu_of(store, name) for name in names] == [0, 1, 2]
        for process in processes:  # a model that does not need torch does not bring it, nor a CUDA context
            assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        url = stack.enter_context(api(redis_url, models))
        (version,) = httpx.get(f"{url}/v1/models/echo").json()["versions"]
        told = {card["worker"]: (card["device"], card["gpu"]) for card in version["workers"]}
        gpus = [{"index": n, "uuid": UUIDS[n], "name": "Fake GPU", "memory_bytes": 16 * 10**9} for n in range(3)]
        assert told == {name: ("cuda:0", gpu) for name, gpu in zip(names, gpus, strict=True)}
        assert sorted(_infos(url), key=lambda labels: labels["worker"]) == [
            {"worker": name, "device": "cuda:0", "gpu": str(n), "uuid": UUIDS[n], "gpu_name": "Fake GPU"}
            for n, name in enumerate(names)
        ]
        flower = stack.enter_context(flower_process(redis_url, models, workers=3))
        host = os.uname().nodename
        assert set(flower.get("/api/workers").json()) == {f"{name}-gpu{n}@{host}" for n, name in enumerate(names)}
        done = httpx.post(f"{url}/inference", json={"model_type": "echo", "data": 1}, timeout=30)
        assert done.json()["output"] == 1


def test_none_is_free_until_a_worker_is_killed(redis_url: str, models: Path, store: redis.Redis, locks: Path) -> None:
    env = machine(locks)
    with contextlib.ExitStack() as stack:
        _, second, _ = (stack.enter_context(worker(redis_url, models, name, **env)) for name in ("a", "b", "c"))
        assert _refused(redis_url, models, **env) == "no GPU is free: each of the 3 visible GPUs has its 1 worker(s)"
        second.kill()
        second.wait()
        stack.enter_context(worker(redis_url, models, "d", **env))
        assert [_gpu_of(store, name) for name in ("a", "c", "d")] == [0, 2, 1]


def test_who_comes_back_under_its_name_is_told_once_with_its_new_gpu(
    redis_url: str, models: Path, store: redis.Redis, locks: Path
) -> None:
    """As a container that is restarted: the sign of life of the killed process is still there for a while."""
    env = machine(locks) | {"ML_LEASE_S": "600"}
    with api(redis_url, models) as url:
        with worker(redis_url, models, "a", **env | {"ML_DEVICE": UUIDS[2]}) as killed:
            killed.kill()
        with worker(redis_url, models, "a", **env):
            wait_until(lambda: store.zcard(keys.WORKERS) == 2, what="two signs of one name")
            wait_until(lambda: "0" in [info["gpu"] for info in _infos(url)], what="the newest is told")
            assert [info["gpu"] for info in _infos(url)] == ["0"]
            (version,) = httpx.get(f"{url}/v1/models/echo").json()["versions"]
            assert [card["gpu"]["index"] for card in version["workers"]] == [0]


def test_a_pinned_gpu_is_one_workers(redis_url: str, models: Path, store: redis.Redis, locks: Path) -> None:
    env = machine(locks) | {"CUDA_VISIBLE_DEVICES": "0"}  # as in the compose file that users have
    with worker(redis_url, models, "a", **env):
        assert _gpu_of(store, "a") == 0
        assert _refused(redis_url, models, **env) == (
            "no GPU is free: the one visible GPU has its 1 worker(s); CUDA_VISIBLE_DEVICES=0 lets workers see only one "
            "GPU: unset it to have as many workers as GPUs"
        )


def test_a_list_is_claimed_in_its_order_and_mixes_with_none(
    redis_url: str, models: Path, store: redis.Redis, locks: Path
) -> None:
    env = machine(locks)
    pinned = env | {"CUDA_VISIBLE_DEVICES": f"{UUIDS[2]},0"}
    with worker(redis_url, models, "a", **pinned), worker(redis_url, models, "b", **pinned):
        assert [_gpu_of(store, name) for name in "ab"] == [2, 0]
        assert "lets workers see only 2 GPUs" in _refused(redis_url, models, **pinned)
        with worker(redis_url, models, "c", **env):
            assert _gpu_of(store, "c") == 1


def test_a_gpu_by_its_uuid(redis_url: str, models: Path, store: redis.Redis, locks: Path) -> None:
    env = machine(locks) | {"ML_DEVICE": UUIDS[1]}
    with worker(redis_url, models, "a", **env):
        assert _gpu_of(store, "a") == 1
        assert _refused(redis_url, models, **env).endswith("ML_DEVICE lets this worker take no other")
    hidden = env | {"CUDA_VISIBLE_DEVICES": "0,2"}
    assert _refused(redis_url, models, **hidden) == f"ML_DEVICE: no GPU '{UUIDS[1]}' is visible"


def test_a_pin_that_names_nothing_is_no_cpu_by_mistake(redis_url: str, models: Path, locks: Path) -> None:
    said = _refused(redis_url, models, **machine(locks, gpus=1), CUDA_VISIBLE_DEVICES="1")
    assert said == f"CUDA_VISIBLE_DEVICES=1 names no GPU of this machine: 0 ({UUIDS[0]}). Empty or -1 hides them all"


@pytest.mark.parametrize(
    "there", [{"FAKE_GPUS": ""}, {"FAKE_GPUS": "", "CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "-1"}]
)
def test_without_a_gpu_the_device_is_the_cpu(
    redis_url: str, models: Path, store: redis.Redis, locks: Path, there: dict[str, str]
) -> None:
    env = machine(locks) | there
    with worker(redis_url, models, "a", **env):
        sign = _signs(store)["a"]
        assert (sign["device"], sign["gpu"]) == ("cpu", None)
    assert not locks.exists()
    assert _refused(redis_url, models, **env | {"ML_DEVICE": "cuda"}) == "ML_DEVICE is cuda, but no GPU is visible"


def test_a_gpu_shared_by_two(redis_url: str, models: Path, store: redis.Redis, locks: Path) -> None:
    env = machine(locks, gpus=1) | {"ML_GPU_SLOTS": "2"}
    with worker(redis_url, models, "a", **env), worker(redis_url, models, "b", **env):
        assert [_gpu_of(store, name) for name in "ab"] == [0, 0]
        assert _refused(redis_url, models, **env) == "no GPU is free: the one visible GPU has its 2 worker(s)"


@pytest.mark.parametrize(("slots", "budget"), [("1", 12_800_000_000), ("2", 6_400_000_000)])
def test_the_memory_for_models_is_the_claimed_gpus(locks: Path, slots: str, budget: int) -> None:
    code = (
        "from shared.settings import load_settings\n"
        "from worker.device import claim_device\n"
        "from worker.memory import budget_bytes\n"
        "settings = load_settings()\n"
        "print(budget_bytes(settings, claim_device(settings).name))\n"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", code],
        env=os.environ | machine(locks) | {"ML_GPU_SLOTS": slots},
        cwd=REPOSITORY,
        text=True,
    )
    assert int(said) == budget


def test_torch_may_not_be_there_before_the_claim(locks: Path) -> None:
    code = (
        "import torch\n"
        "from shared.settings import load_settings\n"
        "from worker.device import claim_device\n"
        "claim_device(load_settings())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | machine(locks),
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr.endswith("RuntimeError: torch was imported before the device was claimed\n")


# As in containers: each has processes, mounts and users of its own, is process 1, and sees the locks as a volume.
CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--mount", "--fork", "--kill-child", "--")
INSIDE = 'mkdir -p "$ML_LOCK_DIR" && mount --bind "$VOLUME" "$ML_LOCK_DIR" && exec "$0" -m worker'


@contextlib.contextmanager
def _contained(redis_url: str, models: Path, store: redis.Redis, name: str, **env: str) -> Iterator[int]:
    """A worker in namespaces of its own, ready; its process id out here."""
    process = subprocess.Popen(
        [*CONTAINER, "sh", "-ec", INSIDE, sys.executable],
        env=environment(redis_url, models, ML_WORKER_NAME=name, **env),
        cwd=REPOSITORY,
    )
    try:
        wait_until(lambda: process.poll() is not None or name in _signs(store), what=f"worker {name}")
        assert process.poll() is None
        (inside,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield int(inside)
    finally:
        process.kill()
        process.wait()


def test_a_claim_holds_across_namespaces(
    redis_url: str, models: Path, store: redis.Redis, locks: Path, tmp_path: Path
) -> None:
    bind = ["mount", "--bind", str(tmp_path), str(tmp_path)]
    probe = subprocess.run([*CONTAINER, *bind], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"the kernel lets this user make no namespaces: {probe.stderr.strip()}")
    locks.mkdir()

    def contained(name: str) -> contextlib.AbstractContextManager[int]:
        env = machine(tmp_path / f"locks-of-{name}") | {"VOLUME": str(locks)}
        return _contained(redis_url, models, store, name, **env)

    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(contained(name)) for name in "abc"]
        assert [_gpu_of(store, name) for name in "abc"] == [0, 1, 2]
        assert [_signs(store)[name]["pid"] for name in "abc"] == [1, 1, 1]
        assert _refused(redis_url, models, **machine(locks)).startswith("no GPU is free")
        os.kill(pids[1], 9)
        wait_until(lambda: not Path(f"/proc/{pids[1]}").exists(), what="it is gone")
        stack.enter_context(contained("d"))
        assert _gpu_of(store, "d") == 1
