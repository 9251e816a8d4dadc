"""A person looks at the service while it works, goes away, and comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from local.ports import free_port
from tests.conftest import wait_until
from tests.console.conftest import Console
from tests.console.test_try import run
from tests.processes import api, worker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@contextmanager
def load(url: str) -> Iterator[None]:
    """Four callers who ask for texts, one after the other, until the end of the block."""
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                body = {"model_type": "bert", "data": {"text": "a text of some words"}}
                client.post("/inference", json=body).raise_for_status()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def number(page: Page, name: str) -> float:
    place = page.locator(".numbers div", has=page.locator("dt", has_text=name)).locator("dd")
    return float(place.inner_text().replace(",", ""))


def cell(page: Page, row: str, column: int) -> float:
    place = page.get_by_role("region", name="Queues").get_by_role("row", name=row).locator("td").nth(column)
    return float(place.inner_text().replace(",", "").split(" ")[0])


def test_while_load_runs(console: Console, stack: str) -> None:
    page = console.open("watch")
    expect(page.locator(".numbers")).to_be_visible()
    before = cell(page, "bert@1", 4)
    with load(stack):
        wait_until(lambda: cell(page, "bert@1", 4) >= before + 20, what="jobs end and are counted")
        wait_until(lambda: number(page, "answers a second") > 0)
        wait_until(lambda: "–" not in page.get_by_label("From submit to end").locator(".legend").inner_text())
        worker_row = page.get_by_role("region", name="Workers").get_by_role("row", name="w1")
        expect(worker_row).to_contain_text("ready")
        expect(worker_row).to_contain_text("bert@1")
        for title in ("Jobs that wait", "Ended and refused, a second", "Workers' devices busy", "Items of a batch"):
            expect(page.get_by_label(title).locator("canvas")).to_be_visible()
        console.picture("watch")
    wait_until(lambda: number(page, "answers a second") == 0, what="the load's end is seen")


def test_what_waits_and_a_pause(console: Console, http: httpx.Client) -> None:
    page = console.open("models")
    echo = page.get_by_role("region", name="echo", exact=True)
    echo.get_by_role("button", name="Pause").click()
    expect(echo).to_contain_text("its jobs wait")
    waiting = [http.post("/v1/jobs", json={"model": "echo", "input": 1, "version": "1"}).json()["id"] for _ in range(3)]
    page = console.open("watch")
    wait_until(lambda: cell(page, "echo@1", 0) == 3)
    page = console.open("models")
    echo.get_by_role("button", name="Resume").click()
    expect(echo.get_by_role("button", name="Pause")).to_be_visible()
    for job_id in waiting:
        assert http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()["state"] == "succeeded"


def test_the_minutes_outlive_a_look_elsewhere(console: Console) -> None:
    page = console.open("watch")
    expect(page.locator(".plots .legend").first).to_be_visible()
    kept = "import('./js/watch.js').then(({ history }) => history.points.map(({ at }) => at))"
    wait_until(lambda: len(page.evaluate(kept)) >= 2)
    before = page.evaluate(kept)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/v1/watch")):
        page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.get_by_role("region", name="Jobs").first).to_be_visible()
    page.get_by_role("link", name="Watch").click()
    expect(page.locator(".plots canvas")).to_have_count(5)
    wait_until(lambda: len(page.evaluate(kept)) > len(before))
    assert page.evaluate(kept)[: len(before)] == before


def test_down_and_back(opened: Callable[..., Console], stack: str, redis_of_stack: str, models: Path) -> None:
    port = free_port()
    console = opened(f"http://127.0.0.1:{port}")
    console.may_fail = ("ERR_CONNECTION_", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE")
    with api(redis_of_stack, models, port=port):
        page = console.open("watch")
        expect(page.locator(".light")).to_have_text("connected")
        expect(page.locator(".numbers")).to_be_visible()
    expect(page.locator(".light")).to_contain_text("does not answer")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    with api(redis_of_stack, models, port=port):
        expect(page.locator(".light")).to_have_text("connected")
        expect(page.get_by_role("alert")).to_have_count(0)
        wait_until(lambda: number(page, "workers") == 1, what="the other stack's")


def test_a_job_that_waits_for_a_worker(
    opened: Callable[..., Console], tmp_path: Path, redis_url: str, store: object
) -> None:
    """The answer comes when a worker does, though the page was only waiting."""
    own = tmp_path / "models.yaml"
    own.write_text('models: {echo: {task: echo, versions: {"1": {}}}}')
    with api(redis_url, own) as url:
        console = opened(url)
        page = console.open("try/echo")
        expect(page.locator(".pick")).to_contain_text("no worker has it")
        page.get_by_role("textbox", name="input").fill('"soon"')
        page.get_by_role("button", name="Run").click()
        expect(page.locator(".answer .state")).to_have_text("queued")
        with worker(redis_url, own):
            expect(page.locator(".answer .state")).to_have_text("succeeded")
            expect(page.locator(".written")).to_have_text("soon")
        console.page.goto("about:blank")


def test_a_card_that_changes_is_shown_at_once(
    opened: Callable[..., Console], tmp_path: Path, redis_url: str, store: object
) -> None:
    """What a worker brings; and when it goes, what was typed and answered stays."""
    own = tmp_path / "models.yaml"
    own.write_text('models: {reader: {handler: "tests/console/handlers.py:Reader", versions: {"1": {}}}}')
    with api(redis_url, own) as url:
        page = opened(url).open("try/reader")
        expect(page.locator(".pick")).to_contain_text("no worker has it")
        expect(page.get_by_role("textbox", name="input")).to_be_visible()
        text = page.get_by_role("textbox", name="text")
        with worker(redis_url, own):
            expect(page.locator(".pick")).to_contain_text("1 ready")
            expect(text).to_have_value("Oslo and 🦆 Bergen")
            run(page)
            expect(page.locator(".answer mark")).to_have_count(2)
        expect(page.locator(".pick")).to_contain_text("no worker has it")
        expect(text).to_have_value("Oslo and 🦆 Bergen")
        expect(page.locator(".answer mark")).to_have_count(2)
        page.goto("about:blank")


def test_one_look_at_the_models_serves_the_header_and_the_view(console: Console) -> None:
    console.open("models")
    wait_until(lambda: console.asked("/health") >= 3)
    assert console.asked("/v1/models") <= console.asked("/health")


def test_watch_as_a_program_reads_it(http: httpx.Client) -> None:
    with http.stream("GET", "/v1/watch") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = [json.loads(line[6:]) for line, _ in zip(_data(answer), range(2), strict=False)]
    assert seen[0]["at"] < seen[1]["at"]
    assert {f"{one['model']}@{one['version']}" for one in seen[1]["versions"]} >= {"bert@1", "echo@1", "echo@2"}
    (bert,) = (one for one in seen[1]["versions"] if one["model"] == "bert")
    assert len(bert["latency"]) == len(seen[1]["bounds_ms"]) + 1
    assert seen[1]["workers"][0]["name"] == "w1"


def _data(answer: httpx.Response) -> Iterator[str]:
    return (line for line in answer.iter_lines() if line.startswith("data: "))
