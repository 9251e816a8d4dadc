"""A message has one holder. Who stood still finds out, runs nothing of what another has, and takes nothing away from
it; what nobody knows to hold goes back within heartbeats, not after a lease."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis

from shared import keys, scripts
from tests.conftest import wait_until
from tests.processes import api, worker

pytestmark = pytest.mark.long

MODELS = """
models:
  moody:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    batch: {max_size: 1}
"""
LIST = keys.queue_list(keys.queue_name("moody", "1"), keys.NORMAL)


def _submit(http: httpx.Client, **order: Any) -> str:
    answer = http.post("/v1/jobs", json={"model": "moody", "input": order})
    assert answer.status_code == 202
    job_id: str = answer.json()["id"]
    return job_id


def _state(store: redis.Redis, job_id: str) -> bytes | None:
    return store.hget(keys.JOB + job_id, "state")


def _sign(store: redis.Redis, name: str) -> dict[str, Any]:
    (key,) = store.scan_iter(f"{keys.WORKER}{name}-*")
    sign: dict[str, Any] = orjson.loads(store.get(key) or b"{}")
    return sign


def test_who_stood_still_runs_nothing_that_another_has(
    redis_url: str, models: Path, tmp_path: Path, store: redis.Redis
) -> None:
    journal, short = tmp_path / "journal", {"ML_LEASE_S": "2", "ML_HEARTBEAT_S": "0.5"}
    with (
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=60) as http,
        worker(redis_url, models, "one", **short) as one,
    ):
        slow = _submit(http, n=0, do="slow", journal=str(journal))
        others = [_submit(http, n=n, do="slow", journal=str(journal)) for n in (1, 2, 3, 4)]
        wait_until(
            lambda: _state(store, slow) == b"running" and store.hlen(keys.UNACKED) > 1, what="one runs, one is held"
        )
        one.send_signal(signal.SIGSTOP)
        held = set(store.hkeys(keys.UNACKED))
        with worker(redis_url, models, "two", **short):
            wait_until(
                lambda: all((store.hget(keys.HOLDERS, tag) or b"two-").startswith(b"two-") for tag in held),
                what="what the other held is this one's, or done",
            )
            one.send_signal(signal.SIGCONT)
            jobs = [http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json() for job_id in [slow, *others]]
            wait_until(lambda: _sign(store, "one")["held"] == 0, what="the first one knows that it holds nothing")
            assert store.hlen(keys.UNACKED) == store.hlen(keys.HOLDERS) == 0
        runs = [line.split()[0] for line in journal.read_text().splitlines()]
        assert sorted(runs) in (["0", "0", "1", "2", "3", "4"], ["0", "1", "2", "3", "4"]), "what had begun, at most"
        assert {job["state"] for job in jobs} == {"succeeded"}
        last = _submit(http)
        assert http.get(f"/v1/jobs/{last}", params={"wait": 30}).json()["state"] == "succeeded", "it serves on"


@pytest.mark.parametrize("living", [True, False])
def test_what_was_drained_and_never_heard_of(
    redis_url: str, models: Path, tmp_path: Path, store: redis.Redis, living: bool
) -> None:
    """The answer to a drain was lost with its connection: the worker lives and does not know of the message."""
    with (
        api(redis_url, models) as url,
        httpx.Client(base_url=url, timeout=60) as http,
        worker(redis_url, models, ML_LEASE_S="600", ML_HEARTBEAT_S="0.5"),
    ):
        process = store.zrange(keys.WORKERS, 0, -1)[0].decode() if living else "nobody"
        (held := tmp_path / "held").touch()
        blocker = _submit(http, do="hold", flag=str(held))
        wait_until(lambda: _state(store, blocker) == b"running", what="the worker is busy, and the rest waits")
        ids = [_submit(http, n=n) for n in range(8)]
        stolen = scripts.one(scripts.run(store, [scripts.drain([LIST], [3], process=process)])).messages
        held.unlink()
        tags = {orjson.loads(raw)["properties"]["delivery_tag"] for _, raw in stolen}
        assert tags
        assert tags <= set(ids)
        jobs = [http.get(f"/v1/jobs/{job_id}", params={"wait": 20}).json() for job_id in {*ids, blocker} - tags]
        assert {job["state"] for job in jobs} == {"succeeded"}
        if living:
            assert {http.get(f"/v1/jobs/{tag}", params={"wait": 20}).json()["attempt"] for tag in tags} == {1}
        else:
            assert set(store.hkeys(keys.HOLDERS)) == {tag.encode() for tag in tags}, "a lease is a lease"
            scripts.run(store, [scripts.give_back(list(tags), process=process)])
        assert {http.get(f"/v1/jobs/{tag}", params={"wait": 20}).json()["state"] for tag in tags} == {"succeeded"}
