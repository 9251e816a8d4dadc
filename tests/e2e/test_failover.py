"""The primary dies, or is made a replica: API and worker find the new one by themselves, and nothing that had reached
it is lost."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from shared.api_keys import ApiKey, Scope, digest
from shared.rates import Rates
from tests.conftest import wait_until
from tests.processes import api, flower_process, queue_ms, worker
from tests.redis_kinds import REPLICATING, USER, Front, Watched, freeze, hand_over, kill

pytestmark = pytest.mark.long

MODELS = 'models: {echo: {task: echo, versions: {"1": {}}, batch: {max_size: 16}}}'
# Long enough for a failover on a busy machine, short enough to see what it takes away redelivered.
LEASE = {"ML_LEASE_S": "6", "ML_HEARTBEAT_S": "1"}


class Stream:
    """Jobs without a pause, one after the other, until the end of the block; what the API refused is counted."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.accepted: dict[str, int] = {}
        self.refused = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            n = 0
            while not self._stop.wait(0.005):
                body = {"model": "echo", "input": n, "parameters": {"sleep_ms": 20}}
                answer = http.post("/v1/jobs", json=body)
                if answer.status_code == 202:
                    self.accepted[answer.json()["id"]] = n
                else:
                    assert answer.status_code == 503, answer.text
                    self.refused += 1
                n += 1


def moves(http: httpx.Client, store: redis.Redis) -> bool:
    """Whether a job that is submitted now is accepted and ends, in this server."""
    answer = http.post("/v1/jobs", json={"model": "echo", "input": 0}, headers={"Prefer": "wait=1"})
    return answer.status_code == 200 and bool(store.exists(keys.JOB + answer.json()["id"]))


@contextmanager
def running(url: str, models: Path, **extra: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, Stream]]:
    """A worker, an API and a stream of jobs to it, 50 of them accepted."""
    with (
        worker(url, models, **LEASE) as process,
        api(url, models, **extra) as at,
        httpx.Client(base_url=at, timeout=60) as http,
        Stream(at) as stream,
    ):
        wait_until(lambda: len(stream.accepted) > 50)
        yield process, http, stream


def judge(store: redis.Redis, http: httpx.Client, stream: Stream, before: set[str]) -> dict[str, Any]:
    """What had reached the new primary ends once, and right; all that was accepted since then has reached it."""
    there = {job for job in stream.accepted if store.exists(keys.JOB + job)}
    for job in there:
        found = http.get(f"/v1/jobs/{job}", params={"wait": 30}).json()
        assert (found["state"], found.get("output")) == ("succeeded", stream.accepted[job])
    lost = set(stream.accepted) - there
    assert lost <= before, "accepted by the new primary, and lost"
    wait_until(lambda: store.hlen(keys.UNACKED) == store.zcard(keys.LEASES) == 0, what="nothing is held")
    waits = sorted(queue_ms(http) for _ in range(10))
    assert waits[5] < 250, f"the new primary wakes the worker: queue_ms {waits}"
    counters = {name.decode(): int(n) for name, n in store.hgetall(f"{keys.COUNTERS}echo@1").items()}
    assert (counters["queued"], counters["running"]) == (0, 0)
    forever = [key.decode() for key in store.scan_iter(count=1000) if store.ttl(key) == -1]
    assert [key for key in forever if not keys.NO_TTL.match(key)] == []
    return {"accepted": len(stream.accepted), "lost": len(lost), "refused": stream.refused}


@pytest.mark.parametrize("end", [kill, freeze, hand_over])
def test_sentinels_promote_the_replica(
    tmp_path: Path, models: Path, end: Callable[[Watched], None], record_property: Callable[[str, Any], None]
) -> None:
    with Watched(tmp_path / "redis") as watched, running(watched.url, models) as (process, http, stream):
        told = _fail_over(watched, http, stream, end)
        assert process.poll() is None
    record_property(end.__name__, told)
    if end is hand_over:
        assert told["role of the old one"] == "master", "nobody waited for it to be told"


@pytest.mark.slow  # the old primary is told after some ten seconds, and until then no server takes writes
def test_a_planned_failover_of_a_guarded_primary_loses_nothing(
    tmp_path: Path, models: Path, record_property: Callable[[str, Any], None]
) -> None:
    with Watched(tmp_path / "redis", guarded=True) as watched, running(watched.url, models) as (_, http, stream):
        told = _fail_over(watched, http, stream, hand_over)
    record_property("guarded", told)
    assert told["lost"] == 0


@pytest.mark.parametrize(("end", "count"), [(kill, 1), (freeze, 1), (hand_over, 2)])
def test_what_replicas_have_confirmed_is_not_lost(
    tmp_path: Path,
    models: Path,
    end: Callable[[Watched], None],
    count: int,
    record_property: Callable[[str, Any], None],
) -> None:
    """There are two, so that there is one after the failover. Of a primary that lives on, the other one goes on
    confirming what the promoted one does not get: there both must."""
    with (
        Watched(tmp_path / "redis", replicas=2) as watched,
        running(watched.url, models, ML_DURABILITY="replica", ML_REPLICAS=str(count)) as (_, http, stream),
    ):
        told = _fail_over(watched, http, stream, end)
    record_property(f"confirmed, {end.__name__}", told)
    assert told["lost"] == 0


def _fail_over(watched: Watched, http: httpx.Client, stream: Stream, end: Callable[[Watched], None]) -> dict[str, Any]:
    begun = time.monotonic()
    end(watched)
    wait_until(lambda: watched.master() != watched.primary.port, what="the sentinels agree on a replica")
    store = redis.Redis(port=watched.master(), db=1)
    promoted_s = time.monotonic() - begun
    wait_until(lambda: moves(http, store), what="jobs move again")
    recovered_s, before = time.monotonic() - begun, set(stream.accepted)
    role = _role(watched.primary)
    enough = len(stream.accepted) + 50
    wait_until(lambda: len(stream.accepted) > enough)
    stream.__exit__()
    told = judge(store, http, stream, before)
    store.close()
    watched.primary.kill()  # a frozen one would not stop
    told |= {"promoted_s": round(promoted_s, 2), "recovered_s": round(recovered_s, 2), "role of the old one": role}
    print(end.__name__, told)  # noqa: T201 - the figures of docs/configuration.md, with `pytest -s`
    return told


def _role(server: EmbeddedServer) -> str:
    try:
        with redis.Redis(port=server.port, socket_timeout=0.2, retry=None) as client:
            return str(client.role()[0].decode())
    except redis.RedisError:
        return "gone"


def test_flower_and_the_limits_of_keys_follow(tmp_path: Path, models: Path) -> None:
    """Both speak to Redis by libraries of others, and the limits by a script that the new primary does not know."""
    key = ApiKey(name="k", scopes=frozenset({Scope.SUBMIT, Scope.READ}), limits=Rates(requests="100000/minute"))
    with Watched(tmp_path / "redis") as watched:
        with redis.Redis(port=watched.primary.port, db=1) as store:
            store.hset(keys.KEYS, digest("mls_k"), key.model_dump_json())
            assert store.wait(1, 10_000) == 1
        with (
            worker(watched.url, models, **LEASE),
            api(watched.url, models, ML_AUTH="on") as at,
            flower_process(watched.url, models) as flower,
            httpx.Client(base_url=at, timeout=60, headers={"Authorization": "Bearer mls_k"}) as http,
        ):
            wait_until(lambda: _heard(flower, http), what="Flower hears events")
            watched.primary.kill()
            wait_until(lambda: watched.master() == watched.replica.port, what="the sentinels agree on the replica")
            wait_until(lambda: _heard(flower, http), timeout_s=60, what="and those of the new primary")


def _heard(flower: httpx.Client, http: httpx.Client) -> bool:
    """Whether a job that a key's limits let through ends, and Flower hears of that."""
    answer = http.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"Prefer": "wait=5"})
    if answer.status_code != 200:
        return False
    assert "ratelimit" in answer.headers, "it was counted"
    told = flower.get(f"/api/task/info/{answer.json()['id']}")
    return told.status_code == 200


def test_one_name_leads_to_another_server(tmp_path: Path, models: Path) -> None:
    """As managed Redis fails over: the old server stays up as a replica, with everybody still connected to it."""
    folder = tmp_path / "redis"
    with EmbeddedServer(folder / "a", extra=REPLICATING) as old, Front(folder, old.port) as front:
        following = ("--replicaof", "127.0.0.1", str(old.port))
        with (
            EmbeddedServer(folder / "b", extra=(*REPLICATING, *following)) as new,
            redis.Redis(port=old.port, db=1) as was,
            redis.Redis(port=new.port, db=1) as store,
        ):
            url = f"redis://{USER}@127.0.0.1:{front.port}/1"
            with running(url, models) as (process, http, stream):
                wait_until(lambda: store.info("replication")["master_link_status"] == "up")
                store.replicaof("NO", "ONE")
                front.lead_to(new.port)
                was.replicaof("127.0.0.1", str(new.port))
                wait_until(lambda: moves(http, store), what="jobs move again")
                before = set(stream.accepted)
                wait_until(lambda: not _users(was), what="nobody listens to the old one, or asks it")
                stream.__exit__()
                judge(store, http, stream, before)
                assert process.poll() is None


def _users(client: redis.Redis) -> list[Any]:
    """Those of our connections to a server that are in use: not the idle ones, which are looked at when taken."""
    ours = [one for one in client.client_list() if one["user"] == "ml"]
    return [one for one in ours if int(one["sub"]) or int(one["psub"]) or int(one["idle"]) < 3]


def test_a_server_that_takes_no_writes_for_a_while(tmp_path: Path, models: Path) -> None:
    """With work in hand, as when the disk is full or the replicas are gone: nothing is lost, nothing runs twice."""
    with (
        EmbeddedServer(tmp_path / "redis") as server,
        redis.Redis(port=server.port) as store,
        worker(server.url, models) as process,
        api(server.url, models) as at,
        httpx.Client(base_url=at) as http,
    ):
        body = {"model": "echo", "parameters": {"sleep_ms": 2000}}
        # Paused while they queue: however slow the machine is, the worker then has full hands.
        assert http.post("/v1/models/echo/pause").status_code == 200
        ids = [http.post("/v1/jobs", json=body | {"input": n}).json()["id"] for n in range(40)]
        assert http.post("/v1/models/echo/resume").status_code == 200
        wait_until(lambda: http.get(f"/v1/jobs/{ids[0]}").json()["state"] == "running")
        store.config_set("min-replicas-to-write", 1)
        held = store.hlen(keys.UNACKED)
        refused = http.post("/v1/jobs", json=body | {"input": 0})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        # The batch has run, and its outcomes have been refused more than once.
        wait_until(lambda: _refusals(store) > 20)
        assert store.hlen(keys.UNACKED) == held > 16
        store.config_set("min-replicas-to-write", 0)
        jobs = [http.get(f"/v1/jobs/{job_id}", params={"wait": 4}).json() for job_id in ids]
        assert [(job["output"], job["attempt"]) for job in jobs] == [(n, 1) for n in range(40)]
        assert process.poll() is None


def _refusals(store: redis.Redis) -> int:
    return int(store.info("errorstats").get("errorstat_NOREPLICAS", {"count": 0})["count"])
