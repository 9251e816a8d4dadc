"""A job that is prepared in the thread that it is offered to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shared import keys, origin
from shared.catalog import Ref
from worker.handlers.echo import Echo
from worker.preparer import Preparer
from worker.stalls import HostCalls
from worker.work import Unit, Work


def test_its_thread_speaks_of_it_only_meanwhile() -> None:
    seen: list[tuple[str, int]] = []

    def put(units: list[Unit]) -> None:
        seen.append((origin.current().job_id, len(units)))

    nobody: Any = SimpleNamespace()
    metrics: Any = SimpleNamespace(of=lambda _: SimpleNamespace(prepared=lambda _: None))
    before: list[int] = []
    preparer = Preparer(
        nobody,
        put,
        nobody,
        metrics,
        calls=HostCalls(),
        threads=1,
        fetcher=nobody,
        adopt=nobody,
        before=lambda: before.append(1),
    )
    model: Any = SimpleNamespace(
        handler=Echo(), task=Echo.io, max_size=8, max_cost=8, max_wait_s=0.0, padded=False, concurrency=0
    )
    request: Any = SimpleNamespace(kwargs={"input": 1}, request_dict={})
    preparer.here(Work("a", "a", Ref("echo", "1"), keys.NORMAL, request, model=model, request_id="r"))
    assert seen == [("a", 1)]
    assert origin.current() == origin.Origin(), "what it logs next is of other jobs"
    assert before == [], "its torch threads are the device's"
