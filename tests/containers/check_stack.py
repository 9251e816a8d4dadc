"""Asks a running service over its published ports. Standard library only: the script that calls it has no other.

python3 check_stack.py API_URL [--workers N] [--flower URL]     exit code 0 if all holds
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from operator import mul
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

# "Chelsea" by Stefan van der Walt, CC0, made smaller.
CAT = Path(__file__).with_name("cat.jpg")
CATS = {"tabby", "tiger cat", "egyptian cat", "persian cat", "siamese cat", "lynx"}
SENTENCES = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again in March."]
BOTH_WORKERS_S = 60


def call(url: str, body: dict[str, Any] | None = None, timeout: float = 60) -> Any:
    """The answer as JSON (as text if it is none); an answer of 400 or above raises with its body."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - http of our own
    try:
        with urlopen(request, timeout=timeout) as answer:  # noqa: S310
            text = answer.read().decode()
            return json.loads(text) if "json" in answer.headers.get_content_type() else text
    except HTTPError as error:
        raise AssertionError(f"{url}: {error.code} {error.read().decode()}") from None


def infer(api: str, model: str, data: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = call(f"{api}/inference", {"model_type": model, "data": data})
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


def check_job(api: str) -> str:
    """Submitted, then polled."""
    job = call(f"{api}/v1/jobs", {"model": "bert", "input": {"text": "later"}})
    end = time.monotonic() + 60
    while job["state"] not in ("succeeded", "failed", "canceled"):
        assert time.monotonic() < end, job
        job = call(f"{api}/v1/jobs/{job['id']}?wait=10")
    assert job["state"] == "succeeded", job
    assert len(job["output"]["embedding"]) == 384
    return str(job["state"])


def check_flower(flower: str, count: int) -> str:
    """Flower sees as many workers, all online."""
    workers = [row for row in call(f"{flower}/workers?json=1")["data"] if row["status"]]
    assert len(workers) == count, workers
    return ", ".join(row["hostname"] for row in workers)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("api")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--flower")
    options = parser.parse_args()
    api = options.api
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
