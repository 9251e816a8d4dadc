"""One batch through a handler: who fails with whom."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog import Ref
from worker.handler import Handler, ItemError
from worker.predict import predict


class Device(Handler[Any, Any]):
    """Fails on negative items; has room for `room` items."""

    def __init__(self, room: int = 1000) -> None:
        self.room, self.calls = room, 0

    def predict(self, batch: list[int]) -> list[Any]:
        self.calls += 1
        if len(batch) > self.room:
            raise MemoryError("full")
        if min(batch) < 0:
            raise ValueError("negative")
        return [item * 2 for item in batch]


def _model(handler: Any, max_size: int = 64) -> Any:
    return SimpleNamespace(handler=handler, ref=Ref("m", "1"), max_size=max_size, halved_batches=0)


@given(st.lists(st.integers(-2, 5), min_size=1, max_size=40))
def test_only_the_culprits_fail(batch: list[int]) -> None:
    outputs = predict(_model(Device()), batch)
    for item, output in zip(batch, outputs, strict=True):
        if item < 0:
            assert isinstance(output, ItemError)
            assert (output.code, output.message) == ("predict_error", "ValueError: negative")
        else:
            assert output == item * 2


def test_bisection_is_logarithmic() -> None:
    device = Device()
    predict(_model(device), [1] * 31 + [-1])
    assert device.calls == 11, "1 + 2 for each of 5 halvings"


class Tensor:
    """Something large on the device."""


class Greedy(Device):
    """Keeps count of what its failed batches still hold when the next is run."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.large: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def predict(self, batch: list[int]) -> list[Any]:
        self.alive.append(sum(tensor() is not None for tensor in self.large))
        activations = Tensor()
        self.large.append(weakref.ref(activations))
        try:
            return super().predict(batch)
        except MemoryError as error:
            raise MemoryError(f"no room for {activations}") from error


def test_what_a_failed_batch_held_is_free_before_its_halves_run() -> None:
    handler = Greedy(room=2)
    assert predict(_model(handler), [1] * 8) == [2] * 8
    assert handler.alive == [0] * 7


def test_out_of_memory_halves_and_lowers_the_ceiling() -> None:
    model = _model(Device(room=10), max_size=40)
    assert predict(model, list(range(40))) == [item * 2 for item in range(40)]
    assert model.halved_batches > 1
    assert model.max_size == 10
    (alone,) = predict(_model(Device(room=0)), [1])
    assert isinstance(alone, ItemError)
    assert alone.code == "out_of_memory"


@pytest.mark.parametrize("wrong", [[], [1], [1, 2, 3], None, "ab", {1: 2, 3: 4}, 7])
def test_a_wrong_answer_fails_the_batch(wrong: Any) -> None:
    handler: Any = Device()
    handler.predict = lambda batch: wrong
    outputs = predict(_model(handler), [1, 2])
    assert [output.code for output in outputs] == ["handler_contract"] * 2
