"""The failure table, where the device or a batch's company is to blame. Leases are so long that nothing here could wait
for one: what goes back goes back at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, environment, refused_worker, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
  moody:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    batch: {max_size: 16}
    limits: {timeout_s: 1}
  twins:
    handler: tests/e2e/handlers.py:Twins
    versions: {"1": {}}
    batch: {max_size: 1}
    limits: {timeout_s: 2}
  quick:
    handler: tests/e2e/handlers.py:Quick
    versions: {"1": {}}
    limits: {timeout_s: 1}
"""
LONG_LEASE = {"ML_LEASE_S": "600", "ML_HEARTBEAT_S": "0.5"}


@pytest.fixture
def http(redis_url: str, models: Path) -> Iterator[httpx.Client]:
    with api(redis_url, models) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def submit(http: httpx.Client, **body: Any) -> str:
    answer = http.post("/v1/jobs", json={"model": "moody", "input": {}} | body)
    assert answer.status_code == 202
    job_id: str = answer.json()["id"]
    return job_id


def ended(http: httpx.Client, job_id: str, *, wait_s: int = 40) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": wait_s}).json()
    assert job["state"] not in ("queued", "running"), job
    return job


@contextmanager
def restarted_worker(redis_url: str, models: Path, until: Callable[[], object], *, deaths: int) -> Iterator[list[int]]:
    """As a supervisor does it: a worker that dies is started again, until it has died so often and the condition holds.
    The exit codes."""
    codes: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def start() -> subprocess.Popen[bytes]:
        env = environment(redis_url, models, ML_WORKER_NAME="w", ML_TORCH_THREADS="2", **LONG_LEASE)
        return subprocess.Popen([sys.executable, "-m", "worker"], env=env, cwd=REPOSITORY)

    try:
        process = start()

        def done() -> object:
            nonlocal process
            assert process is not None
            if process.poll() is not None:
                codes.append(process.returncode)
                process = start()
            return len(codes) >= deaths and until()

        wait_until(done, timeout_s=90)
        yield codes
    finally:
        if process is not None:
            process.terminate()
            process.wait(20)


def company(http: httpx.Client, inputs: list[dict[str, Any]]) -> list[str]:
    """Jobs that will run as one batch: they gather behind another model's, which goes first and takes a while."""
    submit(http, model="echo", parameters={"sleep_ms": 700}, priority="high")
    return [submit(http, input=one) for one in inputs]


def states(http: httpx.Client, ids: list[str]) -> list[str]:
    return [http.get(f"/v1/jobs/{job_id}").json()["state"] for job_id in ids]


def all_ended(http: httpx.Client, ids: list[str]) -> Callable[[], bool]:
    return lambda: not {"queued", "running"} & set(states(http, ids))


def test_a_lost_device(http: httpx.Client, redis_url: str, models: Path, tmp_path: Path, store: redis.Redis) -> None:
    """In company nobody is to blame: all go back at once, run alone, and end."""
    flag, journal = tmp_path / "flag", tmp_path / "journal"
    flag.touch()
    lost = {"do": "lose-device", "flag": str(flag), "journal": str(journal)}
    ids = company(http, [lost | {"n": n} for n in range(6)])

    def until() -> bool:
        flag.unlink(missing_ok=True)  # after the first death the device is well
        return all_ended(http, ids)()

    with restarted_worker(redis_url, models, until, deaths=1) as codes:
        jobs = [ended(http, job_id) for job_id in ids]
    assert codes == [70]
    assert [job["state"] for job in jobs] == ["succeeded"] * 6
    assert {job["attempt"] for job in jobs} == {2}
    runs = [line.split() for line in journal.read_text().splitlines()]
    assert [size for _, size in runs] == ["6"] * 6 + ["1"] * 6, "first together, then each alone"
    assert store.hlen(keys.UNACKED) == store.xlen(keys.DEAD) == 0


def test_what_loses_the_device_alone_is_given_up(http: httpx.Client, redis_url: str, models: Path) -> None:
    *good, poison = company(http, [{"n": n} for n in range(3)] + [{"do": "lose-device"}])
    with restarted_worker(redis_url, models, all_ended(http, [*good, poison]), deaths=4) as codes:
        assert ended(http, poison)["error"]["code"] == "attempts_exhausted"
        assert [ended(http, job_id)["state"] for job_id in good] == ["succeeded"] * 3
    assert codes == [70] * 4, "once in company, three times alone"


def test_a_predict_that_hangs_in_company(http: httpx.Client, redis_url: str, models: Path, tmp_path: Path) -> None:
    """It is not known which one hangs: all go back as suspects, and alone each is judged by its own time."""
    journal = tmp_path / "journal"
    inputs = [{"n": n, "journal": str(journal)} for n in range(3)] + [{"do": "hang", "n": 9, "journal": str(journal)}]
    *good, stuck = company(http, inputs)
    with restarted_worker(redis_url, models, all_ended(http, [*good, stuck]), deaths=2) as codes:
        assert ended(http, stuck)["error"]["code"] == "timeout"
        jobs = [ended(http, job_id) for job_id in good]
    assert codes == [70, 70], "once in company, once alone"
    assert [job["state"] for job in jobs] == ["succeeded"] * 3
    assert {job["attempt"] for job in jobs} == {2}
    sizes = [line.split()[1] for line in journal.read_text().splitlines()]
    assert sizes == ["4"] * 4 + ["1"] * 4


def test_a_predict_that_hangs_beside_others(http: httpx.Client, redis_url: str, models: Path) -> None:
    """Batches of streams: it is known which one hangs, so the other that runs just then goes back without blame."""
    stuck = submit(http, model="twins", input={"do": "hang"})
    good = [submit(http, model="twins", input={"do": "slow", "n": n}) for n in range(12)]
    with restarted_worker(redis_url, models, all_ended(http, [stuck, *good]), deaths=1) as codes:
        failed, jobs = ended(http, stuck), [ended(http, job_id) for job_id in good]
    assert codes == [70]
    assert (failed["error"]["code"], failed["attempt"]) == ("timeout", 1)
    assert [job["output"]["n"] for job in jobs] == list(range(12))
    assert sorted(job["attempt"] for job in jobs) == [1] * 11 + [2], "one was on the device, and ran again"
    assert {job["timing"]["batch_size"] for job in jobs} == {1}
    first = [job for job in jobs if job["finished_at"] < failed["finished_at"]]
    assert len(first) >= 2, "they went on beside it"


@pytest.mark.parametrize("model", ["moody", "quick"])
@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_what_hangs_beside_predict(step: str, model: str, http: httpx.Client, redis_url: str, models: Path) -> None:
    """In a thread for that, and in the device's, which has what comes alone to a handler that is quick."""
    stuck = submit(http, model=model, input={"do": f"hang-{step}"})
    with restarted_worker(redis_url, models, all_ended(http, [stuck]), deaths=1) as codes:
        failed = ended(http, stuck)
        good = ended(http, submit(http, model=model, input={"n": 1}))
    assert codes == [70]
    assert (failed["error"]["code"], failed["attempt"]) == ("timeout", {"prepare": 0, "finish": 1}[step])
    assert failed["error"]["message"] == f"{step} took longer than 1 s"
    assert good["output"]["n"] == 1


def test_a_prepare_that_hangs_beside_a_finish_that_does(http: httpx.Client, redis_url: str, models: Path) -> None:
    """The first to be overdue has its outcome, though the finish thread is taken, and the other has it next time."""
    stuck = [submit(http, input={"do": f"hang-{step}"}) for step in ("prepare", "finish")]
    with restarted_worker(redis_url, models, all_ended(http, stuck), deaths=2) as codes:
        jobs = [ended(http, job_id) for job_id in stuck]
    assert codes == [70, 70]
    assert [job["error"]["message"].split()[0] for job in jobs] == ["prepare", "finish"]


def test_a_finish_that_hangs_in_company(
    http: httpx.Client, redis_url: str, models: Path, tmp_path: Path, store: redis.Redis
) -> None:
    """Nobody's outcome can be written behind it. It is known whose it is: the others of its batch go back without
    blame, and run again together."""
    journal = tmp_path / "journal"
    inputs = [{"do": "hang-finish", "n": 9}, *({"n": n} for n in range(3))]
    stuck, *good = company(http, [one | {"journal": str(journal)} for one in inputs])
    with restarted_worker(redis_url, models, all_ended(http, [stuck, *good]), deaths=1) as codes:
        failed, jobs = ended(http, stuck), [ended(http, job_id) for job_id in good]
    assert codes == [70]
    assert (failed["error"]["code"], failed["attempt"]) == ("timeout", 1)
    assert [job["output"]["n"] for job in jobs] == list(range(3))
    sizes = [line.split()[1] for line in journal.read_text().splitlines()]
    assert sizes == ["4"] * 4 + ["3"] * 3
    assert store.hlen(keys.UNACKED) == store.xlen(keys.DEAD) == 0


def test_out_of_memory_lowers_the_ceiling_and_says_so(http: httpx.Client, redis_url: str, models: Path) -> None:
    """The device of Moody has room for two. Nobody fails, and the next batches fit at once."""
    ids = [submit(http, input={"do": "memory", "n": n}) for n in range(12)]
    alone = submit(http, input={"do": "too-big"})
    with worker(redis_url, models, "small", ML_HEARTBEAT_S="0.2"):
        jobs = [ended(http, job_id) for job_id in ids]
        assert [job["output"]["n"] for job in jobs] == list(range(12))
        assert ended(http, alone)["error"]["code"] == "out_of_memory"

        def metrics() -> str:
            return http.get("/metrics").text

        told = 'ml_max_batch_size{model="moody",version="1",worker="small"} '
        wait_until(lambda: told in metrics(), what="the worker's card is told")
        wait_until(lambda: float(metrics().split(told)[1].split()[0]) < 16, what="the ceiling is lowered")
        failed = 'ml_failed_batches{model="moody",version="1",worker="small"} '
        submit(http, input={"do": "raise"})
        wait_until(lambda: float(metrics().split(failed)[1].split()[0]) >= 1, what="a failed batch is counted")


def test_a_model_that_does_not_load(http: httpx.Client, redis_url: str, models: Path, tmp_path: Path) -> None:
    """The worker that cannot load it says so and ends; its jobs wait for one that can."""
    job_id = submit(http)
    broken = tmp_path / "broken.yaml"
    broken.write_text(MODELS.replace(":Moody", ":Broken"))
    run = refused_worker(environment(redis_url, broken, ML_WORKER_NAME="broken"))
    assert run.returncode == 1
    assert "no weights here" in run.stderr

    def version() -> dict[str, Any]:
        found: dict[str, Any] = http.get("/v1/models/moody").json()["versions"][0]
        return found

    wait_until(lambda: version()["workers"], what="the failed card is read")
    (card,) = version()["workers"]
    assert (card["worker"], card["state"], card["device"], card["gpu"]) == ("broken", "failed", "cpu", None)
    assert "no weights here" in card["error"]
    assert version()["ready"] == 0
    assert http.get("/health").json()["workers"] == 0
    assert http.get("/readyz", params={"model": "moody"}).status_code == 503
    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
    with worker(redis_url, models, "good"):
        assert ended(http, job_id)["state"] == "succeeded"


def test_a_grace_that_is_too_short_gives_the_batch_back(
    http: httpx.Client, redis_url: str, models: Path, tmp_path: Path, store: redis.Redis
) -> None:
    patient = tmp_path / "patient.yaml"
    patient.write_text(MODELS.replace("timeout_s: 1", "timeout_s: 60"))
    with worker(redis_url, patient, "first", ML_GRACE_S="0.5", **LONG_LEASE) as first:
        job_id = submit(http, input={"do": "hang"})
        wait_until(lambda: states(http, [job_id]) == ["running"])
        first.send_signal(signal.SIGTERM)
        first.wait(20)
    assert store.hlen(keys.UNACKED) == 0
    job = http.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["attempt"]) == ("queued", 1)
    assert store.hmget(keys.JOB + job_id, "suspect", "runner") == [None, None], "a stop is no crash"
    http.delete(f"/v1/jobs/{job_id}")


NEWER = """
import runpy, shared.messages as messages
messages.VERSION = messages.PLAIN = 3
runpy.run_module('{}', run_name='__main__')
"""


def test_an_old_worker_beside_a_new_api(redis_url: str, models: Path, store: redis.Redis) -> None:
    """What a newer API writes waits for a newer worker; the old one goes on with what it knows, without a loop."""
    with (
        api(redis_url, models) as old_url,
        api(redis_url, models, program=[sys.executable, "-c", NEWER.format("api")]) as new_url,
        worker(redis_url, models, "old"),
    ):
        newer = httpx.post(f"{new_url}/v1/jobs", json={"model": "echo", "input": "new"}).json()["id"]
        older = [httpx.post(f"{old_url}/v1/jobs", json={"model": "echo", "input": n}).json()["id"] for n in range(20)]
        for job_id in older:
            job = httpx.get(f"{old_url}/v1/jobs/{job_id}", params={"wait": 20}, timeout=30).json()
            assert job["state"] == "succeeded"
        parked = keys.queue_list(keys.queue_name("echo", "1"), keys.NORMAL) + f"{keys.PARKED}3"
        assert store.llen(parked) == 1
        before = store.info("commandstats")["cmdstat_lpush"]["calls"]
        assert httpx.get(f"{old_url}/v1/jobs/{newer}").json()["state"] == "queued"
        with worker(redis_url, models, "new", program=[sys.executable, "-c", NEWER.format("worker")]):
            job = httpx.get(f"{new_url}/v1/jobs/{newer}", params={"wait": 20}, timeout=30).json()
            assert (job["state"], job["timing"]["worker"], job["attempt"]) == ("succeeded", "new", 1)
        assert store.info("commandstats")["cmdstat_lpush"]["calls"] == before, "it was parked once"
        assert store.llen(parked) == 0
