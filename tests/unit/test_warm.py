"""What a version has run before it counts as ready."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from shared.catalog import Ref
from shared.model_spec import ModelSpec
from shared.settings import Settings
from tests import models
from worker.handler import Handler, Prepared
from worker.handler_class import AnyHandler
from worker.handlers.text_embedding import TextEmbedding
from worker.models import LoadedModel, load_model
from worker.streams import SideBySide
from worker.warm import warm_batches, warm_streams


class Size(BaseModel):
    cost: int = 1


class Recorder(Handler[Size, Size]):
    """Remembers its batches, by the costs in them; has memory for `memory` of cost."""

    example = [Size(cost=1), Size(cost=4)]
    memory, slow_s = 10**9, 0.0

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def prepare(self, item: Size, parameters: Any) -> Prepared:
        return Prepared(item, cost=item.cost)

    def predict(self, batch: list[Size]) -> list[Size]:
        time.sleep(self.slow_s)
        if sum(item.cost for item in batch) > self.memory:
            raise MemoryError("no more")
        self.seen.append([item.cost for item in batch])
        return batch


def load(kind: type[AnyHandler], task: str | None = None, **spec: Any) -> LoadedModel:
    given = {"task": task} if task else {"handler": "a.py:B"}
    source = {"source": models.minilm()} if task else {}
    own = ModelSpec.model_validate({**given, "versions": {"1": source}, **spec})
    settings = Settings(torch_threads=1)
    return load_model(Ref("m", "1"), own, own.versions["1"], kind, device="cpu", settings=settings)


def test_alone_together_and_in_batches_up_to_the_largest() -> None:
    model = load(Recorder, batch={"max_size": 20})
    assert model.handler.seen == [[1], [4], [1, 4], [4] * 2, [4] * 4, [4] * 8, [4] * 16, [4] * 20]
    assert model.max_size == 20
    assert load(Recorder, batch={"max_size": 20, "max_cost": 10}).handler.seen[-1] == [4] * 2, (
        "no costlier than any batch"
    )


def test_a_batch_that_the_memory_does_not_hold_lowers_the_ceiling() -> None:
    kind = type("Small", (Recorder,), {"memory": 20})
    model = load(kind, batch={"max_size": 20})
    assert model.handler.seen[-1] == [4] * 4
    assert model.max_size == 4


def test_patience_ends_and_other_errors_are_no_lack_of_memory() -> None:
    handler = type("Slow", (Recorder,), {"slow_s": 0.05})()
    assert warm_batches(handler, handler.example, max_size=1024, max_cost=10**6, patience_s=0.12) == 1024
    assert len(handler.seen) == 3, "the one that begins before patience ends is finished"

    class Odd(Recorder):
        def predict(self, batch: list[Size]) -> list[Size]:
            if len(batch) > 2:
                raise RuntimeError("wrong shape")
            return batch

    with pytest.raises(RuntimeError, match="wrong shape"):
        load(Odd, batch={"max_size": 8})


def test_streams_run_their_largest_batches_at_once() -> None:
    class Together(Recorder):
        """Three batches of it must be under way at once; its memory holds one of them, or all."""

        able = False

        def __init__(self) -> None:
            super().__init__()
            self.meet = threading.Barrier(3)

        def predict(self, batch: list[Size]) -> list[Size]:
            self.meet.wait(10)
            if not self.able:
                raise MemoryError("no more")
            return super().predict(batch)

    def streams(handler: Recorder) -> int:
        beside = SideBySide(lambda _: None)
        return warm_streams(handler, handler.example, 2, max_size=20, max_cost=40, beside=beside)

    assert streams(Together()) == 1
    able = type("Able", (Together,), {"able": True})()
    assert streams(able) == 2
    assert able.seen == [[4] * 10] * 3, "and one of urgent items"


def test_texts_of_all_lengths_and_the_fullest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    predict = TextEmbedding.predict

    def recording(self: TextEmbedding, batch: list[list[int]]) -> list[Any]:
        seen.append([len(ids) for ids in batch])
        return predict(self, batch)

    monkeypatch.setattr(TextEmbedding, "predict", recording)
    model = load(TextEmbedding, "text-embedding")
    alone = {lengths[0] for lengths in seen if len(lengths) == 1}
    assert {8, 16, 32, 64, 128, 256} <= alone
    assert [256] * (model.max_cost // 256) in seen
