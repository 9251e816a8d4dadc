"""What the command line makes of words and lines; its processes are tried in tests/e2e/test_cli.py."""

from __future__ import annotations

import contextlib
import io
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("typer")

from ml_service_client.cli import bulk, exposition, inputs, terminal
from ml_service_client.cli.bulk_progress import Interrupt
from ml_service_client.cli.bulk_run import Results, Run
from ml_service_client.cli.ending import Failure, exit_code
from ml_service_client.cli.operators import filters
from ml_service_client.core.answers import error_of

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
MANY = {"type": "object", "properties": {"texts": {"type": "array"}}, "required": ["texts"]}
TEXT_OR_IDS = {
    "type": "object",
    "properties": {"text": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}},
    "required": ["text"],
}
IMAGE = {"type": "object", "properties": {"image": {"$ref": "#/$defs/I"}}, "required": ["image"]}
IMAGES = {"anyOf": [IMAGE], "$defs": {"I": {"type": "string", "contentEncoding": "base64"}}}
PAIR = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "context": {"type": "string"}},
    "required": ["question", "context"],
}


@pytest.mark.parametrize(
    ("schema", "shape"),
    [
        (None, inputs.Shape(open=True)),
        ({}, inputs.Shape(open=True)),
        (TEXT, inputs.Shape(text="text")),
        ({"anyOf": [MANY, TEXT, {"type": "array", "items": TEXT}]}, inputs.Shape(text="text")),
        (IMAGES, inputs.Shape(media="image")),
        ({"anyOf": [{"$ref": "#/$defs/T"}], "$defs": {"T": TEXT}}, inputs.Shape(text="text")),
        (TEXT_OR_IDS, inputs.Shape(text="text")),
        (PAIR, inputs.Shape()),
    ],
)
def test_the_field_that_is_all_an_input_needs(schema: Any, shape: inputs.Shape) -> None:
    assert inputs.Shape.of(schema) == shape


def test_values_of_the_command_line(tmp_path: Path) -> None:
    text, anything, image = inputs.Shape(text="text"), inputs.Shape(open=True), inputs.Shape(media="image")
    assert inputs.from_text("42", text) == {"text": "42"}
    assert inputs.from_text("42", anything) == 42
    assert inputs.from_text("some words", anything) == "some words"
    assert inputs.from_text('"a"', inputs.Shape()) == "a"
    with pytest.raises(Failure):
        inputs.from_text("some words", inputs.Shape())
    assert inputs.from_bytes(b"\xff", image) == {"image": "/w=="}
    with pytest.raises(Failure):
        inputs.from_bytes(b"\xff", text)
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(b"only by its name")
    assert inputs.read(str(picture)) == b"only by its name"
    assert inputs.read("cat.jpg") == "cat.jpg", "there is no such file"
    assert inputs.read(f"@{picture}") == "only by its name"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1, 2]", [1, 2]),
        (b"plain words", {"text": "plain words"}),
        (b'"quoted"', {"text": "quoted"}),
        (b"42", {"text": "42"}),
        (b"\xff", bulk.Bad("the line is not UTF-8")),
        (b'"half', bulk.Bad("the line is no JSON")),
    ],
)
def test_values_of_lines(raw: bytes, value: Any) -> None:
    assert bulk.value_of(raw, inputs.Shape(text="text")) == value


def test_a_line_that_is_no_input_of_this_model() -> None:
    broken = bulk.value_of(b'{"broken', inputs.Shape(text="text"))
    assert isinstance(broken, bulk.Bad)
    assert broken.message.startswith("the input begins like JSON")
    assert isinstance(bulk.value_of(b"words", inputs.Shape()), bulk.Bad)
    assert bulk.value_of(b"7", inputs.Shape(open=True)) == 7


RUN = Run("r", "m", {}, 2, "0", None, True, "jobs")


def test_results_go_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    results = Results(tmp_path / "out.jsonl")
    assert results.known() is None
    results.keep(RUN)
    results.open()
    results.write("succeeded", output=1)
    results.write("failed", error={})
    results.close()
    with results.path.open("ab") as file:
        file.write(b'{"index":2,"sta')
    again = Results(results.path)
    assert again.known() == RUN
    again.open()
    assert (again.done, again.failed) == (2, 1)
    with pytest.raises(Failure, match="another bulk run"):
        Results(results.path).open()
    again.write("succeeded", output=3)
    again.close()
    assert results.path.read_bytes().count(b"\n") == 3


def test_results_that_somebody_has_written_in(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"index":7,"state":"succeeded","output":1}\n')
    with pytest.raises(Failure, match="of no bulk run"):
        Results(path).known()
    with pytest.raises(Failure, match="line 1"):
        Results(path).open()
    path.with_name("out.jsonl.bulk").write_text("{")
    with pytest.raises(Failure, match="cannot be read"):
        Results(path).known()


def _error(status: int, **told: Any) -> Any:
    return error_of(httpx.Response(status, json=told, request=httpx.Request("GET", "http://x/")))


def test_exit_codes() -> None:
    assert exit_code(_error(404, code="job_not_found")) == 1
    assert exit_code(_error(422, code="invalid_input")) == 1, "it was refused"
    assert exit_code(_error(500, code="predict_error", job="/v1/jobs/a")) == 3
    assert exit_code(_error(504, code="wait_ended", job="/v1/jobs/a")) == 4


def test_filters() -> None:
    told = filters(["model=bert", "label=tenant=a=b", "label=x:y"])
    assert told == {"model": "bert", "label": ["tenant:a=b", "x:y"]}
    for wrong in (["model"], ["colour=red"], ["model=a", "model=b"]):
        with pytest.raises(Failure):
            filters(wrong)


def test_the_text_of_metrics() -> None:
    metrics = exposition.Metrics('# HELP a b\na{x="1",y="q\\"z"} 2.0\na{x="2",y=""} +Inf\nb 3\n')
    assert metrics.labels("a") == [{"x": "1", "y": 'q"z'}, {"x": "2", "y": ""}]
    assert metrics.value("a", x="1", y='q"z') == 2
    assert metrics.value("b") == 3
    assert metrics.value("a", x="1") is None


def test_words_for_numbers() -> None:
    assert [terminal.span(seconds) for seconds in (0.4, 90, 600, 10_000, 200_000)] == [
        "0 s",
        "90 s",
        "10 min",
        "3 h",
        "2 d",
    ]
    assert [terminal.size(count) for count in (None, 7, 1500, 2.5e9)] == [None, "7 B", "2 kB", "2.5 GB"]


def test_tables_are_whole_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    terminal.table(["A", ">B"], [("x" * 500, None), ("[red]y", 7)])
    head, first, second = out.getvalue().splitlines()
    assert head.split() == ["A", "B"]
    assert first.split() == ["x" * 500, "-"]
    assert second.split() == ["[red]y", "7"]


def test_a_ctrl_c_that_python_loses_is_heard() -> None:
    class Freed:
        def __del__(self) -> None:
            with contextlib.suppress(KeyboardInterrupt):  # Python does so, and prints it
                signal.raise_signal(signal.SIGINT)

    with Interrupt() as interrupt:
        interrupt.look()
        Freed()
        with pytest.raises(KeyboardInterrupt):
            interrupt.look()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
