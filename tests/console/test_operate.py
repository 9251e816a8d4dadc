"""A person who runs the service: keys, traffic, jobs, dead letters."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from playwright.sync_api import Locator, Page, Route, expect

from shared import keys, scripts
from tests.conftest import wait_until
from tests.console.conftest import Console
from tests.console.handlers import HOSTILE
from tests.processes import api, worker
from tests.receiver import Receiver

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_traffic_is_shared_anew(console: Console, http: httpx.Client) -> None:
    page = console.open("models/echo")
    echo = page.get_by_role("region", name="echo", exact=True)
    expect(echo.locator("output")).to_have_text(["90 %", "10 %"])
    for version, share in (("1", "50"), ("2", "50")):
        echo.get_by_label(version, exact=True).fill(share)
    expect(echo.locator("output")).to_have_text(["50 %", "50 %"])
    console.picture("models")
    echo.get_by_role("button", name="Share the traffic so").click()
    expect(echo.get_by_role("button", name="Share the traffic so")).to_be_disabled()
    wait_until(lambda: http.get("/v1/models/echo").json()["traffic"] == {"1": 50, "2": 50})
    assert http.put("/v1/models/echo/traffic", json={"traffic": {"1": 90, "2": 10}}).status_code == 200
    expect(echo.locator("output")).to_have_text(["90 %", "10 %"])


def test_a_change_beside_another_is_refused(console: Console, http: httpx.Client) -> None:
    """What the page has read must still be so."""
    console.may_fail = ("412",)
    page = console.open("models")
    echo = page.get_by_role("region", name="echo", exact=True)
    echo.get_by_label("1", exact=True).fill("20")
    page.route("**/v1/models", lambda route: route.abort())  # the page goes on with what it has read
    console.may_fail += ("ERR_FAILED",)
    assert http.put("/v1/models/echo/traffic", json={"traffic": {"1": 80, "2": 20}}).status_code == 200
    echo.get_by_role("button", name="Share the traffic so").click()
    expect(echo.get_by_role("alert")).to_contain_text("precondition_failed")
    page.unroute("**/v1/models")
    assert http.put("/v1/models/echo/traffic", json={"traffic": {"1": 90, "2": 10}}).status_code == 200


def _make(redis_url: str, models: Path, *scopes: str) -> str:
    """A new key's secret."""
    options = [part for scope in scopes for part in ("--scope", scope)]
    command = [sys.executable, "-m", "api", "keys", "create", "--name", "one", *options]
    environment = {"ML_REDIS_URL": redis_url, "ML_MODELS_FILE": str(models)}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    return next(line.split()[-1] for line in told.splitlines() if line.strip().startswith("secret"))


@pytest.fixture
def with_keys(redis_url: str, store: redis.Redis, models: Path) -> Iterator[tuple[str, str, str]]:
    """The URL of an API that asks for keys, an administrator's, and a caller's."""

    secrets = _make(redis_url, models, "admin"), _make(redis_url, models, "read", "submit")
    with api(redis_url, models, ML_AUTH="on") as url:
        yield url, *secrets


def test_keys(with_keys: tuple[str, str, str], opened: Callable[..., Console]) -> None:
    url, admin, caller = with_keys
    console = opened(url)
    console.may_fail = ("401", "403")
    page = console.open("try")
    expect(page.get_by_role("heading", name="API key")).to_be_visible()
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("alert")).to_contain_text("This key is not known here")
    page.get_by_label("Key").fill(caller)
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("bert")
    assert caller not in page.content()
    expect(page.get_by_label("The same call by curl")).to_contain_text("$ML_API_KEY")
    page = console.open("watch")
    expect(page.get_by_role("alert")).to_contain_text("scope")
    looks = console.asked("/health")
    wait_until(lambda: console.asked("/health") > looks + 1, what="the header has looked twice")
    assert console.asked("/v1/watch") == 1, "what is forbidden is not asked again"
    page = console.open("models")
    page.get_by_role("region", name="echo", exact=True).get_by_role("button", name="Pause").click()
    expect(page.get_by_role("alert")).to_contain_text("forbidden")
    page.get_by_role("button", name="Forget the key").click()
    page.get_by_label("Key").fill(admin)
    page.get_by_role("button", name="Use it").click()
    page = console.open("watch")
    expect(page.locator(".numbers")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).concat(document.cookie).join()") == "ml-service.theme,"


def test_a_key_for_dashboards_alone(
    redis_url: str, store: redis.Redis, models: Path, opened: Callable[..., Console]
) -> None:
    made = _make(redis_url, models, "metrics")
    with api(redis_url, models, ML_AUTH="on") as url:
        console = opened(url)
        console.may_fail = ("401", "403")
        page = console.open("watch")
        page.get_by_label("Key").fill("ключ")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert")).to_contain_text("This key is not known here")
        page.get_by_label("Key").fill(made)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator(".numbers")).to_be_visible()
        page.goto("about:blank")


def test_no_address_leads_elsewhere(console: Console, http: httpx.Client) -> None:
    """What stands in the fragment is a name, and no path."""
    console.may_fail = ("404",)
    page = console.open("dead/..%2Fmodels%2Fecho")
    expect(page.get_by_role("alert").first).to_be_visible()
    assert page.get_by_role("button", name="Drop").count() == 0
    for odd in ("%", "toString/x", "constructor"):
        page = console.open(odd)
        expect(page.get_by_label("Model", exact=True)).to_be_visible()
    page = console.open("try/nobody's")
    expect(page.get_by_role("alert")).to_have_text("No model nobody's is served.")


def test_jobs_and_one_of_them(console: Console, http: httpx.Client) -> None:
    with Receiver() as receiver:
        body = {"model": "echo", "input": {"a": HOSTILE}, "labels": {"tenant": HOSTILE}, "webhook": receiver.url}
        job_id = http.post("/v1/jobs", json=body).json()["id"]
        assert http.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()["state"] == "succeeded"
        page = console.open("jobs")
        page.get_by_label("Label").fill(f"tenant:{HOSTILE}")
        page.get_by_label("Label").blur()
        row = page.get_by_role("row", name=job_id[:8])
        expect(row).to_contain_text(HOSTILE)
        page.get_by_label("State").select_option("failed")
        expect(page.get_by_text("None.")).to_be_visible()
        page.get_by_label("State").select_option("succeeded")
        row.get_by_role("link").click()
        expect(page.locator(".timeline")).to_be_visible()
        page.get_by_text("All that is known").click()
        expect(page.get_by_label("The job")).to_contain_text(HOSTILE.replace('"', '\\"'))
        expect(page.get_by_text("Webhooks")).to_be_visible()
        expect(page.locator("main")).to_contain_text("delivered")
        page.get_by_role("link", name="All jobs").click()
        expect(page.get_by_label("State")).to_have_value("succeeded")
        expect(page.get_by_label("Label")).to_have_value(f"tenant:{HOSTILE}")
        expect(page.get_by_role("region", name="Jobs", exact=True).locator("tbody tr")).to_have_count(1)
    assert page.locator("img[src=x]").count() == 0


def test_what_is_being_typed_outlives_a_page_that_comes(console: Console, http: httpx.Client) -> None:
    http.post("/inference", json={"model_type": "echo", "data": 1}).raise_for_status()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    console.page.route("**/v1/jobs?*", hold)
    page = console.open("jobs")
    label = page.get_by_label("Label")
    label.fill("tenant:a")  # and still in it
    expect(page.locator(".light")).to_have_text("connected")
    wait_until(lambda: label.input_value() and held, what="it asks at once")
    held[0].continue_()
    expect(page.locator("tbody tr").first).to_be_visible()
    expect(label).to_have_value("tenant:a")
    page.unroute("**/v1/jobs?*")


def _refuse_once(page: Page) -> None:
    """A Cancel that does not reach the service is told until one does."""
    expect(page.locator(".state").first).to_have_text("running")
    page.route("**/v1/jobs/*", lambda route: route.abort() if route.request.method == "DELETE" else route.continue_())
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/v1/jobs/*")


def test_a_cancel_that_fails_leaves_the_answer_in_its_place(console: Console) -> None:
    console.may_fail = ("ERR_FAILED",)
    page = console.open("try/echo")
    page.get_by_role("textbox", name="input").fill("1")
    page.get_by_text("Parameters").click()
    page.get_by_label("sleep_ms").fill("4000")
    page.get_by_role("button", name="Run").click()
    _refuse_once(page)
    expect(page.locator(".state")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".state")).to_have_text("canceled")
    expect(page.get_by_text("does not answer")).to_have_count(0)


def test_a_cancel_that_fails_is_told_until_one_succeeds(console: Console, http: httpx.Client) -> None:
    console.may_fail = ("ERR_FAILED",)
    body = {"model": "echo", "input": 1, "parameters": {"sleep_ms": 4000}}
    job_id = http.post("/v1/jobs", json=body).json()["id"]
    page = console.open(f"jobs/{job_id}")
    _refuse_once(page)
    for _ in range(2):  # so that what the first has told is drawn
        with page.expect_response(lambda answer: answer.url.endswith(job_id)):
            pass
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".state").first).to_have_text("canceled")
    expect(page.get_by_text("does not answer")).to_have_count(0)


def test_a_delivery_that_fails_is_told_until_one_succeeds(console: Console, http: httpx.Client) -> None:
    console.may_fail = ("ERR_FAILED",)
    with Receiver() as receiver:
        job_id = http.post("/v1/jobs", json={"model": "echo", "input": 1, "webhook": receiver.url}).json()["id"]
        page = console.open(f"jobs/{job_id}")
        expect(page.locator("main")).to_contain_text("delivered")
        page.route("**/deliveries", lambda route: route.abort())
        page.get_by_role("button", name="Deliver again").click()
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        page.unroute("**/deliveries")
        page.get_by_role("button", name="Deliver again").click()
        expect(page.get_by_role("alert")).to_have_count(0)
        wait_until(lambda: len(receiver.got) == 2, what="it is delivered again")


def test_a_job_is_canceled_in_the_list(console: Console, http: httpx.Client) -> None:
    body = {"model": "echo", "input": 1, "parameters": {"sleep_ms": 4000}}
    job_id = http.post("/v1/jobs", json=body).json()["id"]
    page = console.open(f"jobs/{job_id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".state").first).to_have_text("canceled")
    console.may_fail = ("404",)
    page = console.open("jobs/nobodys")
    expect(page.get_by_role("alert")).to_contain_text("job_not_found")


class Graveyard:
    """An API without a worker, whose messages are buried as a worker does that cannot work on them."""

    def __init__(self, url: str, http: httpx.Client, store: redis.Redis, models: Path) -> None:
        self.url, self.http, self.models, self._store = url, http, models, store

    def bury(self, model: str = "echo", reason: str = "rejected", **more: object) -> tuple[str, str]:
        """Of a new job; its id, and its letter's."""
        job_id: str = self.http.post("/v1/jobs", json={"model": model, "input": 7, **more}).json()["id"]
        list_name = keys.queue_list(keys.queue_name(model, "1"), keys.NORMAL)
        scripts.run(self._store, [scripts.drain([list_name], [10], process="gone"), scripts.bury(job_id, reason)])
        return job_id, self.http.get(f"/v1/jobs/{job_id}").json()["letter"]

    def retries(self) -> dict[str, str]:
        """Of jobs: the new one's id by the old one's."""
        return {job["retried_from"]: job["id"] for job in self.http.get("/v1/jobs").json()["data"]}


@pytest.fixture
def graveyard(redis_url: str, store: redis.Redis, tmp_path: Path) -> Iterator[Graveyard]:
    own = tmp_path / "models.yaml"
    own.write_text('models: {echo: {task: echo, versions: {"1": {}}}, other: {task: echo, versions: {"1": {}}}}')
    with api(redis_url, own) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield Graveyard(url, http, store, own)


def _letters(page: Page) -> Locator:
    return page.get_by_role("region", name="Dead letters", exact=True).locator("tbody a")


def test_a_dead_letter_is_retried(opened: Callable[..., Console], graveyard: Graveyard, redis_url: str) -> None:
    job_id, letter = graveyard.bury()
    page = opened(graveyard.url).open("dead")
    expect(_letters(page)).to_have_text([letter])
    _letters(page).press("Enter")
    expect(page.get_by_role("region", name="Dead letter", exact=True)).to_be_focused()
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_text("None. A letter comes here")).to_be_visible()
    with worker(redis_url, graveyard.models):
        page.get_by_role("status").get_by_role("link", name=graveyard.retries()[job_id]).click()
        expect(page.locator(".state").first).to_have_text("succeeded")
        expect(page.get_by_label("Output", exact=True)).to_have_text("7")
    page.goto("about:blank")


def test_those_dead_letters_are_retried_that_are_shown(opened: Callable[..., Console], graveyard: Graveyard) -> None:
    (old, letter), (_, dropped) = graveyard.bury(), graveyard.bury()
    console = opened(graveyard.url)
    console.may_fail = ("404",)
    page = console.open("dead")
    expect(_letters(page)).to_have_text([dropped, letter])
    assert graveyard.http.delete(f"/v1/dead/{dropped}").status_code == 204
    _, newer = graveyard.bury()
    page.get_by_role("button", name="Retry these").click()
    expect(_letters(page)).to_have_text([newer])
    assert graveyard.retries().keys() - {None} == {old}
    expect(page.get_by_role("alert")).to_contain_text(dropped)
    page.goto("about:blank")


def test_a_dead_letter_is_dropped(opened: Callable[..., Console], graveyard: Graveyard) -> None:
    (_, kept), (_, letter) = graveyard.bury(), graveyard.bury()
    console = opened(graveyard.url)
    page = console.open(f"dead/{letter}")
    console.agreed = ("Drop it for ever?",)
    page.get_by_role("button", name="Drop").click()
    expect(_letters(page)).to_have_text([kept])
    assert graveyard.http.get(f"/v1/dead/{letter}").status_code == 404
    page.goto("about:blank")


def test_a_purge_tells_how_many_it_has_canceled(opened: Callable[..., Console], graveyard: Graveyard) -> None:
    for _ in range(3):
        graveyard.http.post("/v1/jobs", json={"model": "echo", "input": 1}).raise_for_status()
    console = opened(graveyard.url)
    page = console.open("models")
    console.agreed = ("Cancel all jobs of echo",)
    echo = page.get_by_role("region", name="echo", exact=True)
    echo.get_by_role("button", name="Pause").click()
    expect(echo).to_contain_text(re.compile(r"Paused since \d\d/\d\d/\d{4}"))
    echo.get_by_role("button", name="Purge").click()
    expect(echo.get_by_role("status")).to_have_text("Canceled jobs: 3.")
    page.goto("about:blank")


def test_dead_letters_by_reason_model_and_label(opened: Callable[..., Console], graveyard: Graveyard) -> None:
    _, plain = graveyard.bury()
    _, killer = graveyard.bury(reason="attempts_exhausted")
    _, other = graveyard.bury("other", labels={"tenant": HOSTILE})
    page = opened(graveyard.url).open("dead")
    expect(_letters(page)).to_have_text([other, killer, plain])
    expect(page.get_by_role("row", name=other)).to_contain_text(f"tenant:{HOSTILE}")
    page.get_by_label("Reason").select_option("attempts_exhausted")
    expect(_letters(page)).to_have_text([killer])
    page.get_by_label("Model").fill("other")
    page.keyboard.press("Enter")
    expect(page.get_by_text("None. A letter comes here")).to_be_visible()
    page.get_by_label("Reason").select_option("")
    expect(_letters(page)).to_have_text([other])
    page.get_by_label("Model").fill("")
    page.get_by_label("Label").fill(f"tenant:{HOSTILE}")
    page.get_by_label("Label").blur()
    expect(_letters(page)).to_have_text([other])
    page.get_by_role("button", name="Retry these").click()
    expect(page.get_by_text("Retried as")).to_be_visible()
    page.get_by_label("Label").fill("")
    page.keyboard.press("Enter")
    expect(_letters(page)).to_have_text([killer, plain])
    assert page.locator("img[src=x]").count() == 0
    page.goto("about:blank")


def test_a_page_of_dead_letters_more(opened: Callable[..., Console], graveyard: Graveyard) -> None:
    letters = [graveyard.bury()[1] for _ in range(51)][::-1]
    page = opened(graveyard.url).open("dead")
    expect(_letters(page)).to_have_text(letters[:50])
    page.get_by_role("button", name="More").click()
    expect(_letters(page)).to_have_text(letters)
    expect(page.get_by_role("button", name="More")).to_have_count(0)
    page.goto("about:blank")
