"""models.yaml: what is refused and where, and which version a request means."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from shared.catalog import Catalog, Ref, load_catalog
from shared.errors import ConfigError, UnknownModel
from shared.model_spec import ModelSpec

TEXT = """
models:
  bert:
    task: text-embedding
    versions:
      1: {source: a}
      "2": {source: b, pooling: cls}
    traffic: {"1": 90, "2": 10}
    aliases: {prod: "1"}
  org/echo.v2:
    task: echo
    versions: {"1": {}, "1.5": {}}
"""


def _load(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return load_catalog(path)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return _load(tmp_path, TEXT)


def test_pins_and_aliases(catalog: Catalog) -> None:
    assert catalog.resolve("bert@2") == Ref("bert", "2")
    assert catalog.resolve("bert", "2") == Ref("bert", "2")
    assert catalog.resolve("bert@prod") == Ref("bert", "1")
    assert catalog.resolve("org/echo.v2") == Ref("org/echo.v2", "1.5"), "the newest, where no traffic is given"
    assert str(Ref("bert", "1")) == "bert@1"


def test_traffic_is_shared_by_weight_and_sticky_by_key(catalog: Catalog) -> None:
    keyed = Counter(catalog.resolve("bert", sticky=str(n)).version for n in range(5000))
    assert 400 < keyed["2"] < 600
    assert {catalog.resolve("bert", sticky="me").version for _ in range(50)} == {
        catalog.resolve("bert", sticky="me").version
    }
    free = Counter(catalog.resolve("bert").version for _ in range(5000))
    assert 350 < free["2"] < 650, "without a key each request is decided anew"


def test_what_is_unknown_names_what_there_is(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel, match=r"no model 'brt'.*bert, org/echo\.v2"):
        catalog.resolve("brt")
    with pytest.raises(UnknownModel, match="no version '9'; it has 1, 2"):
        catalog.resolve("bert@9")


def test_options_are_the_handlers(catalog: Catalog) -> None:
    assert catalog.spec("bert").versions["2"].options == {"pooling": "cls"}
    assert [str(ref) for ref, _, _ in catalog.refs()] == ["bert@1", "bert@2", "org/echo.v2@1", "org/echo.v2@1.5"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("    tusk: echo", "line 4: models.m.tusk: Extra inputs"),
        ("    task: ecko", "line 3: models.m: Value error, unknown task 'ecko'"),
        ("    task: echo\n    handler: a.py:B", "give either task or handler"),
        ("    task: echo\n    traffic: {'2': 1}", "traffic names version '2'"),
        ("    task: echo\n    traffic: {'1': -1}", "must not be negative"),
        ("    task: echo\n    batch:\n      max_size: 0", "line 6: models.m.batch.max_size"),
        ("    task: echo\n    batch:\n      max_cost: 0", "line 6: models.m.batch.max_cost"),
        ("    task: echo\n    limits: {timeout_s: no}", "line 5: models.m.limits.timeout_s"),
        ("    handler: no-class.py", "line 4: models.m.handler"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_field(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, f"# one\nmodels:\n  m:\n{line}\n    versions: {{'1': {{}}}}\n")
    assert told in caught.value.message


def test_batch_auto_is_what_goes_without_saying(tmp_path: Path) -> None:
    head = "models:\n  m:\n    task: echo\n    versions: {'1': {}}\n"
    files = ("", "    batch: auto\n", "    batch: {max_size: 64, max_cost: auto}\n")
    plain, auto, long = (_load(tmp_path, head + more).spec("m") for more in files)
    assert auto == long == plain
    assert auto.build("1") == plain.build("1"), "nothing is loaded anew for it"
    with pytest.raises(ConfigError, match=r"models\.m\.batch"):
        _load(tmp_path, head + "    batch: automatic\n")
    batch = ModelSpec.model_json_schema()["properties"]["batch"]
    assert {"const": "auto", "type": "string"} in batch["anyOf"], "callers of the API are told"


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_catalog(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="line 2: not valid YAML"):
        _load(tmp_path, "models: {\n")
    with pytest.raises(ConfigError, match="models: Field required"):
        _load(tmp_path, "{}")


CELERY = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: a}}
    celery: {names: [tasks.embed, tasks.predict], queue: predict, args: [text]}
  echo: {task: echo, versions: {"1": {}}}
"""


FALLBACKS = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: a}}
    fallback: {model: ada, dimensions: 384}
  ada: {task: text-embedding, versions: {"1": {source: "openai:text-embedding-3-small"}}}
  echo: {task: echo, versions: {"1": {}}, fallback: {model: spare}}
  spare: {task: echo, versions: {"1": {}}}
  own: {handler: "own.py:Own", versions: {"1": {source: a}}, fallback: {model: same}}
  same: {handler: "own.py:Own", versions: {"1": {source: b}}, fallback: {model: own}}
"""


def test_fallbacks(tmp_path: Path) -> None:
    catalog = _load(tmp_path, FALLBACKS)
    found = {name: catalog.fallback(name) for name in catalog.models}
    named = {name: one and (one.model, one.dimensions) for name, one in found.items()}
    assert named == {
        "bert": ("ada", 384),
        "ada": None,
        "echo": ("spare", None),
        "spare": None,
        "own": ("same", None),
        "same": ("own", None),
    }
    echo = catalog.spec("echo")
    assert echo.build("1") == echo.model_copy(update={"fallback": None}).build("1"), "nothing is loaded anew for it"


def test_a_fallback_that_has_gone_or_does_something_else_is_none(tmp_path: Path) -> None:
    models = _load(tmp_path, FALLBACKS).models
    assert Catalog({"echo": models["echo"]}).fallback("echo") is None
    assert Catalog({"echo": models["echo"], "spare": models["ada"]}).fallback("echo") is None
    assert Catalog({}).fallback("echo") is None


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("{model: ada, dimensions: 384}", "{model: ada}", "models.bert: Value error, fallback.dimensions: must be"),
        ("{model: ada, dimensions: 384}", "{model: ada, dimensions: 0}", "models.bert.fallback.dimensions: Input"),
        ("{model: ada, dimensions: 384}", "{dimensions: 384}", "models.bert.fallback.model: Field required"),
        ("{model: ada,", "{model: spare,", "models.bert.fallback.model: spare does echo, not text-embedding"),
        ("{model: spare}", "{model: none}", "models.echo.fallback.model: there is no model 'none'"),
        ("{model: spare}", "{model: echo}", "models.echo.fallback.model: names the model itself"),
        ("{model: spare}", "{model: own}", "models.echo.fallback.model: own does own.py:Own, not echo"),
        ("{model: spare}", "{model: spare, dimensions: 3}", "fallback.dimensions: only of text-embedding"),
        ("{model: spare}", "{model: spare, reason: any}", "models.echo.fallback.reason: Extra inputs"),
        ("{model: spare}", "spare", "line 8: models.echo.fallback: Input should be"),
        ('same: {handler: "own.py:Own"', 'same: {handler: "own.py:New"', "same does own.py:New, not own.py:Own"),
    ],
)
def test_fallbacks_that_cannot_be(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, FALLBACKS.replace(was, becomes))
    assert told in caught.value.message


def test_tasks_of_a_backend(tmp_path: Path) -> None:
    catalog = _load(tmp_path, CELERY)
    found = catalog.celery_task("tasks.predict")
    assert found is not None
    assert (found[0], found[1].args, catalog.celery_queues()) == ("bert", ["text"], {"predict"})
    assert catalog.celery_task("ml.predict") is None


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("queue: predict", "queue: ml", "names that begin with 'ml'"),
        ("queue: predict", "queue: ml.bert.1", "names that begin with 'ml'"),
        ("queue: predict", "queue: 'a b'", "String should match pattern"),
        ("queue: predict,", "", "queue: Field required"),
        ("tasks.embed,", "ml.predict,", "'ml.predict' is this service's own"),
        ("[tasks.embed, tasks.predict]", "[]", "at least 1 item"),
        (
            "echo, versions",
            "echo, celery: {names: [tasks.embed], queue: q}, versions",
            "named by two models: bert and echo",
        ),
    ],
)
def test_tasks_that_cannot_be(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, CELERY.replace(was, becomes))
    assert told in caught.value.message
