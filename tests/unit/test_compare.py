"""Versions beside each other: what a quantised or narrower one costs in accuracy, told in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.catalog import Ref
from shared.model_spec import ModelSpec
from shared.settings import Settings
from tests.models import MINILM
from worker.__main__ import main
from worker.compare import difference, measure
from worker.handler_class import handler_class
from worker.handlers.packed import PackedEncoder
from worker.models import LoadedModel, load_model

CATS = [{"labels": [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]}] * 2
DOG = [{"labels": [{"label": "cat", "score": 0.8}]}, {"labels": [{"label": "dog", "score": 0.7}]}]


@pytest.mark.parametrize(
    ("first", "other", "told"),
    [
        ([{"embedding": [1.0, 0.0]}], [{"embedding": [1, 1]}], "cosine 0.7071 at worst"),
        ([{"embedding": [0.0]}], [{"embedding": [1.0]}], "cosine 0.0000 at worst"),
        ([], [], "the handler has no example to compare them by"),
        (CATS, DOG, "top-1 the same for 1 of 2, scores at most 0.200 apart"),
        ([{"answer": "x"}, {"answer": "y"}], [{"answer": "x"}, {"answer": "z"}], "equal for 1 of 2"),
    ],
)
def test_the_difference_is_told_as_fits_the_outputs(first: list[Any], other: list[Any], told: str) -> None:
    assert difference(first, other) == told


def minilm(**version: Any) -> LoadedModel:
    spec = ModelSpec(task="text-embedding", versions={"1": {"source": MINILM, **version}})  # type: ignore[dict-item]
    kind = handler_class(spec)
    return load_model(Ref("m", "1"), spec, spec.versions["1"], kind, device="cpu", settings=Settings(torch_threads=1))


@pytest.mark.long
@pytest.mark.parametrize("packed", [True, False])
def test_int8_keeps_a_cosine_of_098(packed: bool) -> None:
    full, small = minilm(packed=packed), minilm(packed=packed, quantize="int8")
    assert isinstance(small.handler.encode, PackedEncoder) is packed  # type: ignore[attr-defined]
    told = difference(measure(full).outputs, measure(small).outputs)
    worst = float(told.split()[1])
    assert 0.98 <= worst < 0.99999, "close, and not the same"


@pytest.mark.long
def test_check_compares_the_versions_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(
        f'models: {{m: {{task: text-embedding, versions: {{"1": {{source: "{MINILM}"}}, '
        f'"2": {{source: "{MINILM}", quantize: int8}}}}}}, e: {{task: echo, versions: {{"1": {{}}}}}}}}'
    )
    for name, value in {"ML_MODELS_FILE": str(models), "ML_DEVICE": "cpu", "ML_TORCH_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["check", "--compare", "m"]) == 0
    told = capsys.readouterr().out
    assert "cosine 0.99" in told
    assert [line.split()[0] for line in told.split("\n\n")[1].splitlines()] == ["version", "m@1", "m@2"]
