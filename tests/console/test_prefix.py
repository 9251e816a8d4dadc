"""The console behind a reverse proxy that serves it under a path. (A request outside of that path fails any test.)"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from tests.conftest import wait_until
from tests.console.conftest import Console
from tests.console.prefix import under
from tests.console.test_try import run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture
def behind(stack: str, opened: Callable[..., Console]) -> Iterator[Console]:
    with under("/ml", stack) as url:
        console = opened(url)
        yield console
        console.page.goto("about:blank")


def test_try(behind: Console) -> None:
    behind.page.goto(f"{behind.url}/console")
    expect(behind.page).to_have_url(re.compile(r"/ml/console/$"))
    page = behind.open("try/bert")
    run(page)
    expect(page.locator(".answer figcaption")).to_contain_text("384 numbers")
    expect(page.get_by_label("The same call by curl")).to_contain_text(f"{behind.url}/inference")


def test_watch(behind: Console) -> None:
    page = behind.open("watch")
    expect(page.locator(".numbers")).to_be_visible()
    kept = "import('./js/watch.js').then(({ history }) => history.points.length)"
    wait_until(lambda: page.evaluate(kept) >= 3, what="events come one by one")


def test_a_proxy_that_holds_the_stream_back_is_told(stack: str, opened: Callable[..., Console]) -> None:
    with under("/ml", stack, buffering=True) as url:
        page = opened(url).open("watch")
        expect(page.get_by_role("alert")).to_contain_text("Nothing has been heard")
        page.goto("about:blank")


def test_jobs_and_a_model(behind: Console) -> None:
    page = behind.open("try/echo")
    page.get_by_role("textbox", name="input").fill('"behind a proxy"')
    run(page)
    job_id = page.locator(".answer code").first.inner_text()
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_role("row", name=job_id[:8]).get_by_role("link").click()
    expect(page.locator(".written")).to_have_text("behind a proxy")
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("region", name="echo", exact=True)).to_be_visible()


def test_the_page_of_the_api(behind: Console) -> None:
    page = behind.open("try")
    page.get_by_role("link", name="API").click()
    expect(page).to_have_url(f"{behind.url}/docs")
    expect(page.get_by_role("heading", name="ml-service")).to_be_visible()
    expect(page.locator("#operations-default-livez_livez_get")).to_be_visible()
