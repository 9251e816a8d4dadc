"""`dtype: auto`: what is tried, what is taken, and what is told."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from shared.catalog import Ref
from shared.model_spec import ModelSpec
from shared.settings import Settings
from tests import models
from worker.compare import alike
from worker.handler import Context, FreeForm, Handler
from worker.handler_class import AnyHandler
from worker.handlers.text_embedding import TextEmbedding
from worker.models import LoadedModel, load_model
from worker.precision import candidates


class Dtyped(Handler[FreeForm, dict[str, Any]]):
    """As slow, and as exact, as the test says of a dtype."""

    example = [FreeForm()]
    seconds = {"float32": 0.02, "bfloat16": 0.002}
    outputs: dict[str, Any] = {"float32": {"embedding": [1.0, 0.0]}, "bfloat16": {"embedding": [1.0, 0.001]}}
    told: list[str]

    def load(self, ctx: Context) -> None:
        self.dtype = ctx.dtype
        self.told.append(f"load {ctx.dtype}")
        if ctx.dtype not in self.outputs:
            raise RuntimeError(f"no kernel for {ctx.dtype}")

    def predict(self, batch: list[Any]) -> list[Any]:
        time.sleep(self.seconds[self.dtype] * len(batch))
        return [self.outputs[self.dtype]] * len(batch)

    def unload(self) -> None:
        self.told.append(f"unload {self.dtype}")


def load(kind: type[AnyHandler], *, calibrate_s: float = 0.1, **more: Any) -> LoadedModel:
    given = {"handler": "a.py:B", "batch": {"max_cost": 8}, "versions": {"1": {"dtype": "auto"}}}
    spec = ModelSpec.model_validate(given | more)
    settings = Settings(torch_threads=1, calibrate_s=calibrate_s)
    return load_model(Ref("m", "1"), spec, spec.versions["1"], kind, device="cpu", settings=settings)


def kind(**fields: Any) -> type[Dtyped]:
    return type("Kind", (Dtyped,), {"told": [], **fields})


def test_the_faster_is_taken_where_it_gives_about_the_same(caplog: pytest.LogCaptureFixture) -> None:
    made = kind()
    with caplog.at_level(logging.INFO, "ml.worker"):
        model = load(made)
    assert made.told == ["load float32", "load bfloat16", "unload float32"]
    assert model.handler.dtype == "bfloat16"  # type: ignore[attr-defined]
    card = model.card()["precision"]
    assert (card["dtype"], card["refused"]) == ("bfloat16", {})
    assert card["items_per_s"]["bfloat16"] > 2 * card["items_per_s"]["float32"]
    (line,) = [record for record in caplog.records if record.getMessage() == "model_calibrated"]
    assert line.fields["dtype"] == "bfloat16"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"seconds": {"float32": 0.01, "bfloat16": 0.01}}, "not faster"),
        ({"outputs": Dtyped.outputs | {"bfloat16": {"embedding": [1.0, 0.1]}}}, "cosine 0.9950 at worst"),
        ({"outputs": {"float32": {"embedding": [1.0, 0.0]}}}, "RuntimeError: no kernel for bfloat16"),
    ],
)
def test_what_is_slower_or_differs_or_does_not_run_is_refused(fields: dict[str, Any], why: str) -> None:
    made = kind(**fields)
    model = load(made)
    assert model.handler.dtype == "float32"  # type: ignore[attr-defined]
    assert model.precision
    assert model.precision.refused == {"bfloat16": why}
    assert "unload float32" not in made.told


def test_without_an_example_there_is_nothing_to_go_by() -> None:
    made = kind(example=())
    model = load(made)
    assert made.told == ["load float32"]
    assert model.precision
    assert model.precision.refused == {"bfloat16": "the handler has no example to try it with"}


def test_what_does_not_run_is_unloaded() -> None:
    made = kind(seconds={})
    with pytest.raises(KeyError):
        load(made)
    assert made.told == ["load float32", "unload float32"]


@pytest.mark.parametrize(
    "more", [{"calibrate_s": 0.0}, {"load": "lazy"}, {"versions": {"1": {"dtype": "float32"}}}], ids=str
)
def test_where_nothing_is_tried_it_is_float32(more: dict[str, Any]) -> None:
    made = kind()
    model = load(made, **more)
    assert made.told == ["load float32"]
    assert model.precision is None
    assert "precision" not in model.card()


def test_what_a_device_has() -> None:
    assert candidates("cpu") == ("bfloat16",)
    assert candidates("cuda:0") == ("bfloat16", "float16")


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        ({"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.01]}, True),
        ({"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.1]}, False),
        ({"embedding": [1.0, 0.0]}, {"embedding": [1.0]}, False),
        ([{"label": "cat", "score": 0.9}], [{"label": "cat", "score": 0.89}], True),
        ([{"label": "cat", "score": 0.9}], [{"label": "cat", "score": 0.8}], False),
        ([{"label": "cat", "score": 0.9}], [{"label": "dog", "score": 0.9}], False),
        ({"answer": "x"}, {"answer": "x"}, True),
        ({"answer": "x"}, {"answer": "y"}, False),
    ],
)
def test_what_counts_as_the_same(first: Any, other: Any, same: bool) -> None:
    assert alike([first], [other]) is same
    assert alike([first, first], [first, other]) is same


@pytest.mark.long
def test_minilm_gets_the_one_that_is_faster_here() -> None:
    versions = {"1": {"source": models.minilm(), "dtype": "auto"}}
    given = {"task": "text-embedding", "handler": None, "versions": versions, "batch": {"max_cost": 512}}
    model = load(TextEmbedding, **given)
    assert model.precision
    rates = model.precision.rates
    assert rates.keys() == {"float32", "bfloat16"}
    faster = "bfloat16" if rates["bfloat16"] >= 1.1 * rates["float32"] else "float32"
    assert model.precision.dtype == faster
