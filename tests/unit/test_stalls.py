"""Which call of a handler is overdue."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from shared import keys
from shared.catalog import Ref
from worker.stalls import HostCalls, Stall
from worker.work import Work


def work(job_id: str, *, timeout_s: float, own_s: float | None = None) -> Work:
    model: Any = SimpleNamespace(timeout_s=timeout_s)
    return Work(job_id, job_id, Ref("m", "1"), keys.NORMAL, None, model=model, timeout_s=own_s)


def test_one_that_takes_too_long_in_whatever_thread() -> None:
    calls, goes_on, begun = HostCalls(), threading.Event(), threading.Barrier(3)
    slow, patient = work("slow", timeout_s=0), work("patient", timeout_s=0, own_s=60)

    def hang() -> None:
        begun.wait(10)
        goes_on.wait(10)

    threads = [
        threading.Thread(target=calls.make, args=("prepare", patient, hang)),
        threading.Thread(target=calls.make, args=("finish", slow, hang)),
    ]
    for thread in threads:
        thread.start()
    begun.wait(10)
    try:
        assert calls.stall() == Stall("finish", [slow]), "the other may take as long as it has asked for"
    finally:
        goes_on.set()
    for thread in threads:
        thread.join(10)
    assert calls.stall() is None


def test_a_call_gives_what_it_gives_and_is_over() -> None:
    calls, slow = HostCalls(), work("slow", timeout_s=0)
    assert calls.make("finish", slow, max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        calls.make("prepare", slow, divmod, 1, 0)
    assert calls.stall() is None
