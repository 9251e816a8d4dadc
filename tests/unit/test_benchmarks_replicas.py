"""The pure parts of benchmarks.replicas, and its loop of callers on a server that is known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks import replicas, replicas_page
from benchmarks.held import Held
from benchmarks.steady import Seen, keep_asking
from worker.testing import run_handler


def test_a_batch_holds_the_device_and_says_how_full_it_was() -> None:
    answers = run_handler(Held, [{"number": number} for number in range(3)], options={"held_s": 0})
    assert answers == [{"number": number, "batch": 3} for number in range(3)]


def test_a_load_keeps_all_devices_busy_and_knows_their_limit() -> None:
    assert replicas.SINGLE.callers(8) >= 2 * replicas.BATCH * 8
    assert replicas.LISTS.callers(8) * replicas.LISTS.items == replicas.SINGLE.callers(8)
    assert replicas.SINGLE.limit(8) == 1024
    assert replicas.SLOW.limit(1) == 32
    assert replicas.SINGLE.body(7) == {"model_type": "held", "data": {"number": 7}}
    assert replicas.LISTS.body(8)["data"] == [{"number": number} for number in range(8, 16)]


def test_a_rate_is_the_slope_whatever_the_edges_cut_off() -> None:
    ends = [0.2 + 0.25 * batch for batch in range(40)]
    at = [end for end in ends for _ in range(32)]
    assert replicas.slope(at) == pytest.approx(128, rel=0.01)


def test_figures_of_a_stretch() -> None:
    body = json.dumps({"output": [{"number": 0, "batch": 32}, {"number": 1, "batch": 16}]}).encode()
    parts = ("api", "workers", "redis", "client")
    before = dict.fromkeys((*parts, "machine", "scripts", "commands"), 0.0)
    after = {"api": 2.0, "workers": 4.0, "redis": 1.0, "client": 1.0, "machine": 9.0, "scripts": 200, "commands": 400}
    seen = Seen(10.0, [0.1 * number for number in range(100)], [0.5] * 100, [body] * 100, before, after)
    load = replicas.Load("pairs", "held", 2, 0.25)
    found = replicas.figures(load, 2, seen)
    assert found["items_per_s"] == pytest.approx(20)
    assert (found["api_us"], found["workers_cores"], found["scripts"]) == pytest.approx((10_000, 0.4, 2))
    assert found["foreign_cores"] == pytest.approx(0.1)
    batches = 100 / 32 + 100 / 16
    assert found["batch"] == pytest.approx(200 / batches)
    assert found["busy"] == pytest.approx(batches * 0.25 / (2 * 10.0))


def row(part: str, load: str, workers: int, apis: int, rate: float) -> dict[str, Any]:
    cpu = {f"{name}_{unit}": 0.5 for name in replicas_page.PARTS for unit in ("us", "cores")}
    more = {"limit": 128.0 * workers, "batch": 32.0, "busy": 1.0, "p50_ms": 750.0, "p95_ms": 900.0, "scripts": 1.2}
    told = {"part": part, "load": load, "workers": workers, "apis": apis, "items_per_s": rate, "foreign_cores": 0.1}
    return told | cpu | more


def test_the_page_tells_efficiency_by_what_one_worker_did(tmp_path: Path) -> None:
    rows = [row("workers", "single", 1, 1, 120.0), row("workers", "single", 8, 1, 864.0)]
    rows.append(row("apis", "no-op", 8, 2, 900.0))
    assert replicas_page.efficiency(rows[:2]) == pytest.approx([1.0, 0.9])
    data = {"rows": rows, "rounds": [[one] for one in rows], "machine": {"cores": 2}}
    told = replicas_page.report(data).splitlines()
    assert any(line.startswith("| 8 | 864 | 0.84 | **0.90** | 32.0 | 100% |") for line in told)
    assert any(line.startswith("| 2 | **900** |") for line in told)
    files = [tmp_path / f"{number}.svg" for number in range(2)]
    for file in files:
        replicas_page.draw(data, file)
    assert files[0].read_text() == files[1].read_text() != ""


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def echo() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Echo", (_Echo,), {})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_callers_ask_until_the_stretch_is_over(echo: ThreadingHTTPServer) -> None:
    looks: list[int] = []
    url = f"http://127.0.0.1:{echo.server_port}/x"
    bodies = [{"number": number} for number in range(3)]
    seen = keep_asking([url], bodies, 4, warm_s=0.05, stretch_s=0.3, look=lambda: looks.append(1) or len(looks))
    assert (seen.before, seen.after) == (1, 2)
    assert len(seen.at_s) == len(seen.latencies_s) == len(seen.bodies) > 8
    assert 0 <= min(seen.at_s) <= max(seen.at_s) <= seen.wall_s
    assert {json.loads(body)["number"] for body in seen.bodies} == {0, 1, 2}
    assert all(at >= 0 for at in seen.latencies_s)


def test_an_answer_that_is_none_ends_the_load(echo: ThreadingHTTPServer) -> None:
    echo.RequestHandlerClass.status = 503  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"answered b'HTTP/1\.1 503"):
        keep_asking([f"http://127.0.0.1:{echo.server_port}/x"], [{}], 2, warm_s=30, stretch_s=30)
