"""Batches: in, and out in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Make
from misbehaving import Proxy

from ml_service_client import MLServiceError, UnknownModel, WaitEnded


def test_a_batch(client: Any) -> None:
    batch = client.batch("echo", ({"n": n} for n in range(120)), labels={"run": "1"}, deadline_s=300)
    assert (batch.counts.total, batch.model, batch.labels) == (120, "echo", {"run": "1"})
    lines = list(client.batch_results(batch))
    assert [(line.index, line.output) for line in lines] == [(n, {"n": n}) for n in range(120)]
    ended = client.wait_batch(batch, timeout_s=60)
    assert (ended.state, ended.done, ended.counts.succeeded, ended.counts.done) == ("completed", True, 120, 120)
    assert client.get_batch(batch.id).finished_at == ended.finished_at
    assert [line.index for line in client.batch_results(batch, start=118)] == [118, 119]


def test_of_a_file_of_json_lines(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(n)}\n" for n in range(10)))
    batch = client.batch("echo", path, parameters={"sleep_ms": 1}, webhook=None)
    assert [line.output for line in client.batch_results(batch)] == list(range(10))


def test_a_text_is_no_list_of_inputs(client: Any) -> None:
    with pytest.raises(TypeError, match=r"pathlib\.Path"):
        client.batch("echo", "in.jsonl")


def test_lines_that_fail(client: Any) -> None:
    batch = client.batch("bert", [{"txt": "no"}, {"txt": "no"}])
    ended = client.wait_batch(batch, timeout_s=60)
    assert (ended.counts.failed, ended.state) == (2, "completed")
    line = next(iter(client.batch_results(batch)))
    assert not line.succeeded
    assert (line.state, line.error.code) == ("failed", "invalid_input")
    assert {fault.pointer for fault in line.error.errors} == {"/text", "/txt"}


def test_results_over_broken_connections(make: Make, url: str, proxy: Proxy) -> None:
    batch = make(url).batch("echo", range(50), parameters={"sleep_ms": 2})
    proxy.todo = ["pass", 5, "refuse", 20, "cut", "pass"]
    assert [line.output for line in make(proxy.url).batch_results(batch)] == list(range(50))
    assert b"start=5" in proxy.seen[2]


def test_a_lost_answer_is_no_second_batch(make: Make, url: str, proxy: Proxy) -> None:
    proxy.todo = ["lose", "pass"]
    batch = make(proxy.url).batch("echo", iter(range(3)))
    assert proxy.seen[0] == proxy.seen[1]
    recent = [one.id for one in make(url).batches(page=1)][:2]
    assert recent[0] == batch.id
    assert batch.id not in recent[1:]


def test_cancel_and_what_has_not_ended(client: Any) -> None:
    batch = client.batch("narrow", range(40), parameters={"sleep_ms": 300})
    with pytest.raises(WaitEnded) as caught:
        client.wait_batch(batch, timeout_s=0.5)
    assert caught.value.job == batch.id
    assert len(list(client.batch_results(batch, follow=False))) < 40
    assert client.cancel_batch(batch).state == "canceled"
    ended = client.wait_batch(batch, timeout_s=60)
    lines = list(client.batch_results(ended))
    assert [line.index for line in lines] == list(range(40)), "a canceled batch has all its lines"
    assert lines[-1].state == "canceled"


def test_what_is_refused(client: Any) -> None:
    with pytest.raises(UnknownModel):
        client.batch("nobody", [1])
    with pytest.raises(MLServiceError) as caught:
        client.batch("echo", [])
    assert caught.value.status == 422
    with pytest.raises(MLServiceError) as unknown:
        client.get_batch("batch_00000000-0000-4000-8000-000000000000")
    assert unknown.value.status == 404
