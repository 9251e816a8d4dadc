"""Events and batch results over broken connections: the core alone, fed byte by byte."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from ml_service_client import Event, Line, UnknownJob
from ml_service_client.core.retries import Policy
from ml_service_client.core.streams import Events, Lines, Stream

POLICY = Policy(2, dice=lambda: 1.0)


def ok() -> httpx.Response:
    return httpx.Response(200, request=httpx.Request("GET", "http://h/"))


def event(identity: int | None, name: str, end: str = "\n") -> bytes:
    job = json.dumps(
        {"id": "j", "model": "m", "version": "1", "state": name if identity else "running", "labels": {"é": "ü"}}
    )
    lines = ([f"id: {identity}"] if identity else []) + [f"event: {name}", f"data: {job}", "", ""]
    return end.join(lines).encode()


def feed(stream: Stream[Any], data: bytes, size: int) -> list[Any]:
    return [one for at in range(0, len(data), size) for one in stream.read(data[at : at + size])]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_whatever_the_pieces(size: int, end: str) -> None:
    stream = Events("j", POLICY)
    assert stream.answered(ok()) is None
    data = event(1, "queued", end) + f": keep-alive{end}{end}".encode() + event(2, "running", end)
    data += event(None, "progress", end) + event(3, "succeeded", end)
    found: list[Event] = feed(stream, data, size)
    assert [(one.id, one.type) for one in found] == [
        (1, "queued"),
        (2, "running"),
        (None, "progress"),
        (3, "succeeded"),
    ]
    assert found[0].job.labels == {"é": "ü"}
    assert stream.done


def test_goes_on_after_the_last_event_that_had_an_id() -> None:
    stream = Events("j", POLICY)
    assert "Last-Event-ID" not in stream.request.headers
    stream.answered(ok())
    half = event(None, "progress")
    feed(stream, event(2, "running") + half[: len(half) // 2], 5)
    assert stream.lost(httpx.ReadError("")) == 0.5
    assert stream.request.headers["Last-Event-ID"] == "2"
    stream.answered(ok())
    assert [one.type for one in feed(stream, event(3, "failed"), 5)] == ["failed"], "half an event is forgotten"


def test_nothing_more_comes() -> None:
    stream = Events("j", POLICY)
    assert stream.answered(httpx.Response(204, request=httpx.Request("GET", "http://h/"))) is None
    assert stream.done


def test_gives_up_only_when_nothing_comes_between() -> None:
    stream = Events("j", POLICY)
    error = httpx.ReadError("")
    for _ in range(5):
        stream.answered(ok())
        feed(stream, b": keep-alive\n\n", 50)
        assert stream.ended() > 0
    assert stream.lost(error) > 0
    with pytest.raises(httpx.ReadError):
        stream.lost(error)


def test_refusals_are_retried_as_for_any_call() -> None:
    request = httpx.Request("GET", "http://h/")
    busy = httpx.Response(503, json={"code": "store_unavailable"}, headers={"Retry-After": "2"}, request=request)
    stream = Events("j", POLICY)
    assert stream.answered(busy) == pytest.approx(2.25)
    with pytest.raises(UnknownJob):
        stream.answered(httpx.Response(404, json={"code": "job_not_found"}, request=request))


def line(index: int, **more: Any) -> bytes:
    return json.dumps({"index": index, "state": "succeeded", "output": index, **more}).encode() + b"\n"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_go_on_where_the_connection_broke(size: int) -> None:
    stream = Lines("batch_1", POLICY, start=0, total=4, follow=True)
    stream.answered(ok())
    found: list[Line] = feed(stream, line(0) + line(1) + line(2)[:9], size)
    stream.lost(httpx.ReadError(""))
    assert stream.request.params == {"start": "2", "follow": "true"}
    stream.answered(ok())
    found += feed(stream, line(2), size)
    assert stream.ended() > 0, "a clean end, but one is missing"
    found += feed(stream, line(3, state="failed", error={"code": "invalid_input", "message": "no"}), size)
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert found[3].error is not None
    assert found[3].error.code == "invalid_input"
    assert stream.done


def test_without_follow_the_end_is_the_end() -> None:
    stream = Lines("batch_1", POLICY, start=2, total=9, follow=False)
    stream.answered(ok())
    assert [one.index for one in feed(stream, line(2), 100)] == [2]
    stream.ended()
    assert stream.done
    assert Lines("batch_1", POLICY, start=9, total=9, follow=True).done
