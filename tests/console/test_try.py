"""A person asks a model in the browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page, Route, expect

from tests.conftest import wait_until
from tests.console.conftest import Console
from tests.console.handlers import HOSTILE
from tests.processes import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CAT = REPOSITORY / "tests/containers/cat.jpg"


def run(page: Page) -> None:
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".answer .timeline")).to_be_visible()


def answer(page: Page) -> object:
    """As JSON."""
    page.locator(".answer").get_by_role("button", name="JSON").click()
    return json.loads(page.get_by_label("Output", exact=True).inner_text())


def test_a_text(console: Console) -> None:
    page = console.open("try")
    expect(page.get_by_label("Model", exact=True)).to_have_value("bert")
    expect(page.get_by_label("text")).to_have_value("A queue keeps what it was given.")
    run(page)
    expect(page.locator(".answer .state")).to_have_text("succeeded")
    expect(page.locator(".answer figcaption")).to_contain_text("384 numbers of length 1.000")
    for step in ("queue", "prepare", "predict", "finish", "in all"):
        expect(page.locator(".timeline dt", has_text=step)).to_be_visible()
    assert "embedding" in json.dumps(answer(page))


def test_several_texts_beside_each_other(console: Console) -> None:
    page = console.open("try/bert")
    for number, text in enumerate(("A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rise.")):
        if number:
            page.get_by_role("button", name="Add another input").click()
        page.get_by_label("text").nth(number).fill(text)
    run(page)
    cells = [[float(one) for one in row.split("\t")[1:]] for row in page.locator(".matrix tbody tr").all_inner_texts()]
    assert [cells[at][at] for at in range(3)] == [1, 1, 1]
    assert cells[0][1] > 0.5 > cells[0][2]
    console.picture("try-texts")


def test_an_image(console: Console) -> None:
    page = console.open("try/cnn")
    page.get_by_label("image").set_input_files(CAT)
    expect(page.locator(".drop")).to_contain_text("cat.jpg")
    run(page)
    first = page.locator(".bars tr").first
    expect(first).to_contain_text("cat")
    shown = first.locator(".bar span").bounding_box()
    assert shown
    assert shown["width"] > 1
    console.picture("try-image")


def test_images_dropped_at_once_are_one_job(console: Console, tmp_path: Path) -> None:
    page = console.open("try/cnn")
    other = tmp_path / "other.png"
    Image.open(CAT).rotate(90).save(other)
    page.get_by_label("image").set_input_files([CAT, other])
    expect(page.get_by_role("group", name="Input 2")).to_contain_text("other.png")
    run(page)
    expect(page.locator(".answer .bars")).to_have_count(2)


def test_entities_boxes_and_masks_and_nothing_of_them_is_markup(console: Console, tmp_path: Path) -> None:
    page = console.open("try/reader")
    page.get_by_label("text").fill("From Oslo 🦆 to Bergen <b>by</b> train")
    run(page)
    expect(page.locator(".answer mark")).to_have_text(["FromNAME", "OsloNAME", "BergenNAME"])
    expect(page.locator(".marked")).to_contain_text("<b>by</b>")
    wide, tall = tmp_path / f"{HOSTILE.replace('/', '')}.png", tmp_path / "tall.png"
    Image.new("RGB", (200, 100), "teal").save(wide)
    Image.new("RGB", (100, 200), "teal").save(tall)
    page = console.open("try/painter")
    page.get_by_label("image").set_input_files(wide)
    expect(page.locator(".drop")).to_contain_text(HOSTILE)
    run(page)
    expect(page.locator(".picture svg text")).to_have_text(f"{HOSTILE} 0.90")
    assert page.locator(".picture svg rect").get_attribute("width") == "50"
    page.get_by_label("image").set_input_files(tall)
    run(page)
    expect(page.locator(".picture .mask")).to_have_count(1)
    expect(page.locator(".picture figcaption")).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


NULLS = {
    "labels and scores": {"sequence": "s", "labels": ["a", "b"], "scores": [0.5, None]},
    "labels": {"labels": [{"label": "a", "score": 0.5}, {"label": "b", "score": None}]},
    "words for a mask": [{"score": None, "token": 1, "token_str": "x", "sequence": "x y"}],
    "an answer": {"answer": "a", "score": None, "start": 0, "end": 1},
    "a chat": [{"generated_text": [None, {"role": "user"}]}],
    "sound": {"audio": "no base64!", "sampling_rate": 1},
    "nothing": None,
    "vectors": {"embedding": []},
    "many numbers": [0.5] * 200_000,
}


@pytest.mark.parametrize("what", NULLS)
def test_no_answer_breaks_the_page(console: Console, what: str) -> None:
    """JSON has null where a model's arithmetic gave no number; and it looks like what the views draw."""
    page = console.open("try/echo")
    page.get_by_role("textbox", name="input").fill(json.dumps(NULLS[what]))
    run(page)
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.get_by_role("region", name="Your jobs")).to_be_visible()


def test_boxes_and_masks_that_are_none(console: Console, tmp_path: Path) -> None:
    page = console.open("try/odd")
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    page.get_by_label("image").set_input_files(tmp_path / "a.png")
    run(page)
    expect(page.get_by_label("Output", exact=True)).to_contain_text("no base64!")


def test_any_json_comes_back_as_text(console: Console) -> None:
    page = console.open("try/echo")
    hostile = {"html": HOSTILE, "script": "</script><script>alert(1)</script>", "constructor": None}
    page.get_by_role("textbox", name="input").fill(json.dumps(hostile))
    run(page)
    assert answer(page) == hostile
    assert page.locator("img[src=x]").count() == 0


def test_what_is_copied_is_whole_though_less_is_shown(console: Console) -> None:
    console.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=console.url)
    page = console.open("try/echo")
    given = {"numbers": list(range(100)), "long": "word " * 1000, "html": HOSTILE}
    page.get_by_role("textbox", name="input").fill(json.dumps(given))
    run(page)
    expect(page.get_by_label("Output", exact=True)).to_contain_text("… (100 numbers)")
    page.locator(".answer").get_by_role("button", name="Copy").click()
    expect(page.locator(".answer").get_by_role("button", name="Copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == given
    page.get_by_role("region", name="The same call in code").get_by_role("button", name="Copy").click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()").startswith("curl "), what="the call is copied")


def test_a_browser_that_does_not_copy(console: Console) -> None:
    page = console.open("try/echo")
    page.context.grant_permissions([], origin=console.url)  # and no other
    code = page.get_by_role("region", name="The same call in code")
    code.get_by_role("button", name="Copy").click()
    expect(code.get_by_role("alert")).to_contain_text("has not copied it")


def test_what_is_wrong_is_named(console: Console) -> None:
    console.may_fail = ("422",)
    page = console.open("try/bert")
    page.get_by_label("text").fill("")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("/input/text")
    page.get_by_label("text").fill("a")
    page.get_by_role("button", name="Add another input").click()
    page.get_by_label("text").nth(1).fill("b " * 20_000)
    page.get_by_text("Parameters").click()
    page.get_by_label("truncate").select_option("false")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("/1/text")
    page = console.open("try/echo")
    page.get_by_role("textbox", name="input").fill("{no json")
    expect(page.get_by_text("The input is not JSON yet.")).to_be_visible()
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("The input is not JSON")


def test_parameters_and_a_pinned_version(console: Console) -> None:
    page = console.open("try/bert")
    page.get_by_text("Parameters").click()
    page.get_by_label("dimensions").fill("64")
    page.get_by_label("Version").select_option("1")
    run(page)
    expect(page.locator(".answer figcaption")).to_contain_text("64 numbers")
    expect(page.locator(".answer")).to_contain_text("bert@1")


def test_cancel(console: Console, http: httpx.Client) -> None:
    page = console.open("try/echo")
    page.get_by_role("textbox", name="input").fill("1")
    page.get_by_text("Parameters").click()
    page.get_by_label("sleep_ms").fill("4000")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".answer .state")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".answer .state")).to_have_text("canceled")
    expect(page.get_by_role("button", name="Run")).to_be_enabled()
    job_id = page.locator(".answer code").first.inner_text()
    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "canceled"


def test_by_keyboard_alone(console: Console) -> None:
    page = console.open("try/bert")
    expect(page.get_by_label("text")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#/try/bert"), "the view stays"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Run":
            break
    page.keyboard.press("Enter")
    expect(page.locator(".answer .state")).to_have_text("succeeded")
    first = page.locator(".answer code").first.inner_text()
    page.get_by_label("text").press("Control+Enter")
    expect(page.locator(".answer code").first).not_to_have_text(first)
    expect(page.locator(".answer .state")).to_have_text("succeeded")


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
@pytest.mark.parametrize("what", ["text", "image", "images"])
def test_the_call_in_code_does_what_the_page_does(console: Console, language: str, what: str, tmp_path: Path) -> None:
    if what == "text":
        page = console.open("try/bert")
        page.get_by_label("text").fill('It\'s "quoted" $HOME `x` \\n 🦆')
    else:
        page = console.open("try/cnn")
        names = ["a cat's.jpg", "b.jpg"][: 2 if what == "images" else 1]
        for name in names:
            (tmp_path / name).write_bytes(CAT.read_bytes())
        page.get_by_label("image").set_input_files([tmp_path / name for name in names])
    page.get_by_role("group", name="Language").get_by_role("button", name=language).click()
    source = page.get_by_label(f"The same call by {language}").inner_text()
    node, _ = compute_driver_executable()
    command = {
        "curl": ["bash", "-c", source],
        "Python": [sys.executable, "-c", source],
        "JavaScript": [node, "--input-type=module", "-e", source],
    }[language]
    ran = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=60, check=True)
    wanted = {"text": "embedding", "image": "labels", "images": "labels"}[what]
    assert ran.stdout.count(wanted) >= (2 if what == "images" else 1), ran.stdout + ran.stderr


@pytest.mark.parametrize("prefix", ["", "/a/prefix"])
def test_the_page_of_the_api_works_offline(console: Console, prefix: str) -> None:
    page = console.page
    if prefix:  # of a proxy, which takes it away

        def handed_on(route: Route) -> None:
            route.fulfill(response=route.fetch(url=route.request.url.replace(prefix, "", 1)))

        page.route(f"{console.url}{prefix}/**", handed_on)
        page.route(f"{console.url}/livez", lambda route: route.abort())
    page.goto(f"{console.url}{prefix}/docs")
    expect(page.get_by_role("heading", name="ml-service")).to_be_visible()
    page.locator("#operations-default-livez_livez_get").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"status": "ok"')
    assert httpx.get(f"{console.url}/redoc").headers["location"] == "docs"


def test_a_strange_page_gets_nothing(stack: str, opened: Callable[..., Console]) -> None:
    page = httpx.get(f"{stack}/console/")
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "<script>" not in page.text
    assert " on" not in page.text.replace(" on ", "")
    for path in ("/console/nothing.js", "/console/%2e%2e/app.py", "/console/../app.py"):
        assert httpx.get(f"{stack}{path}").status_code == 404, path
