"""How it looks: to a screen reader (axe), on a phone, in the dark, and while it loads."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.console.conftest import Console
from tests.console.test_try import CAT, run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

VIEWS = ("try/bert", "try/cnn", "watch", "models", "jobs", "dead")


def fill(page: Page, view: str) -> None:
    """So that there is something to look at."""
    if view == "try/cnn":
        page.get_by_label("image").set_input_files(CAT)
    if view.startswith("try"):
        run(page)
    if view == "watch":
        expect(page.locator(".plots canvas").first).to_be_visible()
    if view in ("models", "jobs"):
        expect(page.locator("tbody tr").first).to_be_visible()
    if view == "dead":
        expect(page.locator("main .card").first).to_be_visible()


@pytest.fixture(autouse=True)
def a_job(http: httpx.Client) -> None:
    http.post("/inference", json={"model_type": "echo", "data": 1}).raise_for_status()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(opened: Callable[..., Console], stack: str, view: str, theme: str) -> None:
    console = opened(stack, color_scheme=theme)
    page = console.open(view)
    fill(page, view)
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone(opened: Callable[..., Console], stack: str, view: str) -> None:
    console = opened(stack, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = console.open(view)
    fill(page, view)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing sticks out"
    small = page.evaluate(
        """[...document.querySelectorAll("button, nav a, select")].filter((one) => {
             const { width, height } = one.getBoundingClientRect();
             return width > 0 && (width < 24 || height < 24);
           }).map((one) => one.textContent)"""
    )
    assert small == [], "WCAG 2.5.8: targets of 24 pixels"
    if view == "try/bert":
        console.picture("phone")


_SHIFTS = """
new PerformanceObserver((list) => {
  const own = list.getEntries().filter((entry) => !entry.hadRecentInput);
  window.shifted = own.reduce((sum, entry) => sum + entry.value, window.shifted ?? 0);
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_jumps_while_it_loads(opened: Callable[..., Console], stack: str, view: str) -> None:
    console = opened(stack)
    console.page.add_init_script(_SHIFTS)
    page = console.open(view)
    if view.startswith("try"):
        expect(page.get_by_role("button", name="Run")).to_be_visible()
    else:
        fill(page, view)
    expect(page.locator(".light")).to_have_text("connected")
    assert page.evaluate("window.shifted ?? 0") < 0.1, "https://web.dev/articles/cls: good is at most 0.1"


def test_the_theme_is_kept(opened: Callable[..., Console], stack: str) -> None:
    console = opened(stack, color_scheme="light")
    page = console.open("try")
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.get_by_label("Colours").select_option("dark")
    dark = page.evaluate(back)
    assert dark != light
    page.reload()
    expect(page.get_by_label("Colours")).to_have_value("dark")
    assert page.evaluate(back) == dark
