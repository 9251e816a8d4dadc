"""echo: the same back, as slow as the slowest, and failing as a whole batch."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from shared.tasks import EchoParameters
from worker.handlers.echo import Echo
from worker.inprocess import run_items, warm_up
from worker.testing import run_handler


def items(*parameters: EchoParameters) -> list[Any]:
    return [Echo().prepare({"n": n}, one).item for n, one in enumerate(parameters)]


@pytest.mark.parametrize("value", [None, 3, "text", [1, {"a": None}], {"deep": {"er": [True]}}])
def test_it_gives_back_any_json(value: Any) -> None:
    assert run_handler(Echo, [value]) == [value]
    assert run_items(Echo(), [value], EchoParameters()) == [value]


def test_a_batch_takes_the_longest_sleep_and_not_the_sum() -> None:
    begun = time.monotonic()
    Echo().predict(items(*[EchoParameters(sleep_ms=200)] * 4, EchoParameters()))
    assert 0.2 <= time.monotonic() - begun < 0.6


def test_one_failing_item_fails_the_batch() -> None:
    with pytest.raises(RuntimeError, match="as asked"):
        Echo().predict(items(EchoParameters(), EchoParameters(fail="as asked")))


def test_it_warms_up() -> None:
    assert warm_up(Echo()) == [{"hello": "world"}]


def test_loading_it_imports_neither_torch_nor_numpy() -> None:
    code = """
import sys
from shared.catalog import Ref
from shared.model_spec import ModelSpec
from shared.settings import Settings
from worker.handler_class import handler_class
from worker.models import handler_card, load_model
spec = ModelSpec(task="echo", versions={"1": {}})
kind, own = handler_class(spec), Settings(torch_threads=2)
model = load_model(Ref("e", "1"), spec, spec.versions["1"], kind, device="cpu", settings=own)
assert handler_card(model.handler)["task"] == "echo"
assert not {"torch", "numpy", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
