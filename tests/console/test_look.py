"""How it looks: to a screen reader (axe), on a phone, in the dark, and while it loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.conftest import wait_until
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


def test_a_phone_and_long_names(opened: Callable[..., Console], stack: str, tmp_path: Path) -> None:
    name, label = f"{'photo' * 40}.jpg", "label" * 40
    (tmp_path / name).write_bytes(CAT.read_bytes())
    page = opened(stack, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True).open("try/cnn")
    page.get_by_label("image").set_input_files(tmp_path / name)
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for answer in (
        label,
        [{"generated_text": [{"role": label, "content": label}]}],
        {"labels": [label], "scores": [1]},
    ):
        page.goto("about:blank")
        page.goto(f"{stack}/console/#/try/echo")
        page.get_by_role("textbox", name="input").fill(json.dumps(answer))
        run(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, answer


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


_DRAWN = """(drawn) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [drawn.width, drawn.height];
  const seen = copy.getContext("2d");
  seen.drawImage(drawn, 0, 0);
  const { data } = seen.getImageData(0, 0, copy.width, copy.height);
  const found = new Set();
  for (let at = 0; at < data.length; at += 4)
    if (data[at + 3] === 255) found.add(`rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`);
  return [...found];
}"""


def colours(canvas: Locator) -> set[str]:
    """Of its pixels that nothing shines through."""
    return set(canvas.evaluate(_DRAWN))


def back(place: Locator) -> str:
    colour: str = place.evaluate("(one) => getComputedStyle(one).backgroundColor")
    return colour


def test_an_embedding_is_drawn_in_the_colours_of_the_theme(opened: Callable[..., Console], stack: str) -> None:
    page = opened(stack, color_scheme="light").open("try/bert")
    run(page)
    canvas, accent = page.locator(".vector canvas"), page.locator("nav a[aria-current]")
    light = colours(canvas)
    assert back(accent) in light
    page.emulate_media(color_scheme="dark")
    wait_until(lambda: back(accent) in colours(canvas), what="it is drawn again")
    assert not light & colours(canvas)


def test_lines_are_drawn_in_the_colours_of_the_theme(opened: Callable[..., Console], stack: str) -> None:
    page = opened(stack, color_scheme="dark").open("watch")
    plot = page.get_by_role("region", name="Workers' devices busy")
    canvas, key = plot.locator("canvas"), plot.locator(".legend i").first
    wait_until(lambda: back(key) in colours(canvas), what="there are two points, and a line between them")
    dark, grid = back(key), colours(canvas)
    page.get_by_label("Colours").select_option("light")
    assert back(key) != dark
    wait_until(lambda: back(key) in colours(canvas), what="it is drawn again")
    assert not grid & colours(canvas)
