"""Which class runs a model, loading and warming it, `check`, and the helper for users' own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from shared.catalog import Ref
from shared.errors import ConfigError, HandlerContract, InvalidInput
from shared.model_spec import ModelSpec
from shared.settings import Settings
from shared.tasks import BUILT_IN, REMOTE_ONLY
from tests import models
from worker.cards import place_card
from worker.check import check, shape
from worker.device import Device
from worker.handler import Handler, ItemError, Prepared
from worker.handler_class import handler_class
from worker.models import LoadedModel, load_model
from worker.shelf import Place, Standing
from worker.testing import run_handler

OWN = """
from __future__ import annotations
from pydantic import BaseModel
from worker.handler import Handler, ItemError, Prepared

class Text(BaseModel):
    text: str

class Size(BaseModel):
    size: int

class Sizer(Handler[Text, Size]):
    example = [Text(text="abc")]
    uses_torch = False

    def predict(self, batch: list[Text]) -> list[Size | ItemError]:
        return [ItemError("no x", pointer="/text") if "x" in one.text else Size(size=len(one.text)) for one in batch]

class Short(Sizer):
    def predict(self, batch):
        return super().predict(batch)[1:]

class Wrong(Sizer):
    def predict(self, batch):
        return [{"size": "many"} for _ in batch]

class Loose(Handler):
    pass

class Dead(Sizer):
    def load(self, ctx):
        raise ValueError("these weights are of another model")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def spec(handler: str, **fields: Any) -> ModelSpec:
    return ModelSpec(handler=handler, versions={"1": {}}, **fields)


def load(folder: Path, own: ModelSpec) -> LoadedModel:
    settings = Settings(models_file=folder / "models.yaml")
    return load_model(
        Ref("m", "1"),
        own,
        own.versions["1"],
        handler_class(own, base=settings.models_file.parent),
        device="cpu",
        settings=settings,
    )


@pytest.mark.parametrize("task", sorted(BUILT_IN))
def test_every_built_in_task_has_its_handler(task: str) -> None:
    source = "vertex:project/here/1" if task in REMOTE_ONLY else "x"
    found = handler_class(ModelSpec(task=task, versions={"1": {"source": source}}))
    assert issubclass(found, Handler)
    assert found.io is BUILT_IN[task]


def test_torchvision_sources_go_to_torchvision() -> None:
    both = ModelSpec(
        task="image-classification",
        versions={"1": {"source": "torchvision:resnet18"}, "2": {"source": "google/vit-base-patch16-224"}},
    )
    assert handler_class(both, both.versions["1"]).__name__ == "TorchvisionClassifier"
    assert handler_class(both, both.versions["2"]).__name__ == "ImageClassificationHandler"


def test_ones_own_file_is_found_beside_the_models_file_and_imported_once(folder: Path) -> None:
    found = handler_class(spec("own.py:Sizer"), base=folder)
    assert found is handler_class(spec("own.py:Sizer"), base=folder)
    assert found.io.input_schema()["anyOf"][0]["required"] == ["text"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.py:Sizer", "no such file; looked for"),
        ("own.py:Other", "has no class Other"),
        ("own.py:Text", "not a subclass"),
        ("own.py:Loose", r"Handler\[YourInput, YourOutput\]"),
        ("broken.py:A", "ZeroDivisionError: division by zero"),
        ("no.such.module:A", "No module named 'no'"),
    ],
)
def test_a_handler_that_cannot_be_had_is_told(folder: Path, path: str, message: str) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=message):
        handler_class(spec(path), base=folder)


def test_a_loaded_model_and_its_card(folder: Path) -> None:
    own = spec("own.py:Sizer", batch={"max_size": 8, "max_wait_ms": 20}, limits={"timeout_s": 5})
    model = load(folder, own)
    assert (model.max_size, model.max_cost, model.padded) == (8, 1024, False)
    assert (model.max_wait_s, model.timeout_s, model.example_output) == (0.02, 5, {"size": 3})
    place = Place(model.ref, own, type(model.handler), standing=Standing.READY, model=model)
    card = orjson.loads(orjson.dumps(place_card(place, None, device=Device("cpu"))))
    assert (card["model"], card["version"], card["state"]) == ("m", "1", "ready")
    assert (card["device"], card["gpu"]) == ("cpu", None)
    assert card["example"] == {"text": "abc"}
    assert card["output_schema"]["properties"]["size"] == {"title": "Size", "type": "integer"}
    assert card["limits"]["max_batch_size"] == 8


def test_the_cost_never_cuts_below_max_size_on_its_own(folder: Path) -> None:
    assert load(folder, spec("own.py:Sizer", batch={"max_size": 2000})).max_cost == 2000
    assert load(folder, spec("own.py:Sizer", batch={"max_size": 2000, "max_cost": 100})).max_cost == 100


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Short", HandlerContract, "got 0 outputs for 1 inputs"),
        ("Wrong", HandlerContract, "not what the handler declares: size"),
        ("Dead", ValueError, "of another model"),
    ],
)
def test_a_model_that_breaks_its_contract_does_not_load(
    folder: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(folder, spec(f"own.py:{name}"))


def test_bert_of_the_repositorys_own_models_file(repository: Path) -> None:
    from shared.catalog import load_catalog

    bert = load_catalog(repository / "models.yaml").spec("bert")
    model = load_model(
        Ref("bert", "1"),
        bert,
        bert.versions["1"],
        handler_class(bert),
        device="cpu",
        settings=Settings(torch_threads=1),
    )
    assert (model.max_size, model.max_cost, model.padded) == (64, 1024, False)
    assert len(model.example_output["embedding"]) == 384
    assert model.load_s > 0 < model.warm_s


def test_weights_and_labels_are_found_like_a_source(tmp_path: Path) -> None:
    models.mobilenet(tmp_path, 7)
    own = ModelSpec(
        task="image-classification",
        versions={
            "1": {"source": "torchvision:mobilenet_v3_small", "weights": "cnn.safetensors", "labels": "labels.txt"}
        },
    )
    assert len(load(tmp_path, own).example_output["labels"]) == 5


def test_check_tells_each_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "models.yaml").write_text(
        "models:\n"
        "  good: {handler: 'own.py:Sizer', versions: {a: {}, b: {}}}\n"
        "  bad: {handler: 'own.py:Dead', versions: {'1': {}}}\n"
    )
    settings = Settings(models_file=folder / "models.yaml", device="cpu")
    assert check(settings, []) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["good@a", "ok"], ["good@b", "ok"], ["bad@1", "failed"]]
    assert "{size: number}" in lines[1]
    assert "ValueError: these weights are of another model" in lines[3]
    assert check(settings, ["good@b"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_shapes_in_words() -> None:
    assert (
        shape({"embedding": [0.5] * 3, "ok": True, "none": None}) == "{embedding: [3 x number], ok: true, none: null}"
    )
    assert shape([]) == "[]"


def test_run_handler_gives_what_a_client_would_read(folder: Path) -> None:
    own = handler_class(spec("own.py:Sizer"), base=folder)
    first, failed, third = run_handler(own, [{"text": "abcd"}, {"text": "x"}, {"text": ""}])
    assert (first, third) == ({"size": 4}, {"size": 0})
    assert isinstance(failed, ItemError)
    assert failed.pointer == "/text"
    with pytest.raises(InvalidInput):
        run_handler(own, [{"txt": "abcd"}])


class Word(BaseModel):
    word: str


class Letters(Handler[Word, Any]):
    """Chunks in two groups: no batch may mix them."""

    uses_torch = False
    batches: list[list[str]]

    def load(self, ctx: Any) -> None:
        type(self).batches = []

    def prepare(self, item: Word, parameters: Any) -> list[Prepared]:
        return [Prepared(c, group=c.isupper(), notes={"loud": True} if c.isupper() else None) for c in item.word]

    def predict(self, batch: list[str]) -> list[str]:
        self.batches.append(batch)
        return [c.swapcase() for c in batch]

    def finish(self, outputs: list[str], item: Word, parameters: Any) -> dict[str, str]:
        return {"word": "".join(outputs)}


def test_chunks_of_one_group_share_a_batch_and_find_their_way_back() -> None:
    assert run_handler(Letters, [{"word": "aB"}, {"word": "cd"}]) == [{"word": "Ab", "loud": True}, {"word": "CD"}]
    assert Letters.batches == [["a", "c", "d"], ["B"]]


@pytest.mark.long
def test_the_example_of_the_docs_and_its_own_test_pass(repository: Path) -> None:
    """As a user runs it: in his own folder, with his own pytest."""
    command = [sys.executable, "-m", "pytest", "examples/test_sentiment.py", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=repository, check=True, timeout=100, env={**os.environ, "HF_HUB_OFFLINE": "1"})
