"""Asks a running service over its published ports. Standard library only: the script that calls it has no other.

    python3 check_stack.py API_URL [--workers N] [--flower URL]   with FLOWER_PASSWORD in the environment, and API_KEY
                                                            where keys are on
    python3 check_stack.py API_URL --submit                 accepts a job and prints its id
    python3 check_stack.py API_URL --ended ID               the job has succeeded, or soon will
    python3 check_stack.py API_URL --keys                   only API_KEY of the environment comes in

Exit code 0 if all holds.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from operator import mul
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

# "Chelsea" by Stefan van der Walt, CC0, made smaller.
CAT = Path(__file__).with_name("cat.jpg")
CATS = {"tabby", "tiger cat", "egyptian cat", "persian cat", "siamese cat", "lynx"}
SENTENCES = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again in March."]
BOTH_WORKERS_S = 60
JOB_S = 180  # above a dead worker's lease and the run of what it held


class Unavailable(Exception):
    """503: to be tried again."""


class Refused(AssertionError):
    """400 or above."""

    def __init__(self, url: str, status: int, text: str) -> None:
        super().__init__(f"{url}: {status} {text}")
        self.status = status


def call(url: str, body: dict[str, Any] | None = None, timeout: float = 60, **headers: str) -> Any:
    """The answer as JSON (as text if it is none). Raises Refused with its body, or Unavailable."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", **headers})  # noqa: S310 - http of our own
    try:
        with urlopen(request, timeout=timeout) as answer:  # noqa: S310 - http: of this machine
            text = answer.read().decode()
            return json.loads(text) if "json" in answer.headers.get_content_type() else text
    except HTTPError as error:
        text = error.read().decode()
        if error.code == 503:
            raise Unavailable(f"{url}: {text}") from None
        raise Refused(url, error.code, text) from None


def refused(url: str, body: dict[str, Any] | None = None, **headers: str) -> int:
    """The status of a call that must not succeed."""
    try:
        answer = call(url, body, **headers)
    except Refused as error:
        return error.status
    raise AssertionError(f"{url} lets everybody in: {answer}")


def with_key() -> dict[str, str]:
    """A header, where keys are on."""
    return {"X-API-Key": os.environ["API_KEY"]} if "API_KEY" in os.environ else {}


def infer(api: str, model: str, data: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = call(f"{api}/inference", {"model_type": model, "data": data}, **with_key())
    return answer


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(mul, a, b)) / math.sqrt(sum(map(mul, a, a)) * sum(map(mul, b, b)))


def check_bert(api: str) -> str:
    a, b, c = infer(api, "bert", {"texts": SENTENCES})["output"]["embeddings"]
    assert len(a) == 384, len(a)
    assert cosine(a, b) > 0.6, cosine(a, b)
    assert cosine(a, c) < 0.3, cosine(a, c)
    return f"alike {cosine(a, b):.2f}, unlike {cosine(a, c):.2f}"


def check_cnn(api: str) -> str:
    image = base64.b64encode(CAT.read_bytes()).decode()
    labels = infer(api, "cnn", {"image": image})["output"]["labels"]
    assert labels[0]["label"].lower() in CATS, labels
    return f"{labels[0]['label']} {labels[0]['score']:.2f}"


def check_workers(api: str, count: int) -> str:
    """Many at once until `count` different workers have answered."""
    end = time.monotonic() + BOTH_WORKERS_S
    answered: dict[str, int] = {}
    with ThreadPoolExecutor(16) as pool:
        while len(answered) < count:
            assert time.monotonic() < end, f"in {BOTH_WORKERS_S} s only these answered: {answered}"
            for answer in pool.map(lambda n: infer(api, "bert", {"text": f"Sentence number {n}."}), range(64)):
                worker = answer["timing"]["worker"]
                answered[worker] = answered.get(worker, 0) + 1
    return ", ".join(f"{worker}: {jobs} jobs" for worker, jobs in sorted(answered.items()))


def submit(api: str, texts: list[str]) -> str:
    return str(call(f"{api}/v1/jobs", {"model": "bert", "input": {"texts": texts}}, **with_key())["id"])


def ended(api: str, job_id: str) -> dict[str, Any]:
    """The job once it has succeeded; a server that is away for a moment is asked again."""
    end = time.monotonic() + JOB_S
    job: dict[str, Any] = {"state": "unknown"}
    while job["state"] not in ("succeeded", "failed", "canceled"):
        assert time.monotonic() < end, f"{job_id} is still {job['state']}"
        try:
            job = call(f"{api}/v1/jobs/{job_id}?wait=10", **with_key())
        except (Unavailable, URLError, ConnectionError):  # the API itself may be away
            time.sleep(0.5)
    assert job["state"] == "succeeded", job
    return job


def check_job(api: str) -> str:
    """Submitted, then polled."""
    job = ended(api, submit(api, ["later"]))
    assert len(job["output"]["embeddings"][0]) == 384
    return str(job["state"])


def check_flower(flower: str, count: int) -> str:
    """Flower lets nobody in without a password, and sees as many workers, all online, and what they have done."""
    for path in ("/", "/api/workers", "/api/tasks", "/workers?json=1"):
        assert refused(f"{flower}{path}") == 401
        assert refused(f"{flower}{path}", **basic("admin", "wrong")) == 401
    assert refused(f"{flower}/api/task/revoke/1", {}) == 401
    login = basic("admin", os.environ["FLOWER_PASSWORD"])
    workers = [row for row in call(f"{flower}/workers?json=1", **login)["data"] if row["status"]]
    assert len(workers) == count, workers
    tasks = call(f"{flower}/api/tasks?state=SUCCESS&limit=10", **login)
    assert {task["name"] for task in tasks.values()} == {"ml.predict"}, tasks
    return ", ".join(row["hostname"] for row in workers)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def check_keys(api: str) -> str:
    """With keys on: probes are open, all else is for who has one."""
    asked = {"model_type": "bert", "data": {"text": "hello"}}
    assert call(f"{api}/health")["status"]
    assert refused(f"{api}/inference", asked) == refused(f"{api}/v1/models") == 401
    assert refused(f"{api}/inference", asked, Authorization="Bearer wrong") == 401
    for header in ({"Authorization": f"Bearer {os.environ['API_KEY']}"}, {"X-API-Key": os.environ["API_KEY"]}):
        assert call(f"{api}/inference", asked, **header)["output"]["embedding"]
    return "401 without, 200 with"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("api")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--flower")
    parser.add_argument("--submit", action="store_true")
    parser.add_argument("--ended")
    parser.add_argument("--keys", action="store_true")
    options = parser.parse_args()
    api = options.api
    if options.submit:
        print(submit(api, ["accepted long ago"]), flush=True)  # noqa: T201 - its answer
        return 0
    alone = {
        "ended": lambda: ended(api, options.ended)["state"],
        "keys": lambda: check_keys(api),
    }
    for name, only in alone.items():
        if getattr(options, name):
            print(f"  {only()}", flush=True)  # noqa: T201 - its answer
            return 0
    checks: dict[str, Any] = {
        "/health": lambda: call(f"{api}/health")["status"],
        "/readyz": lambda: call(f"{api}/readyz") and "ready",
        "bert": lambda: check_bert(api),
        "cnn": lambda: check_cnn(api),
        "/v1/jobs": lambda: check_job(api),
        f"{options.workers} worker(s)": lambda: check_workers(api, options.workers),
    }
    if options.flower:
        checks["flower"] = lambda: check_flower(options.flower, options.workers)
    for name, check in checks.items():
        print(f"  {name:12} {check()}", flush=True)  # noqa: T201 - its answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
