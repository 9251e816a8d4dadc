"""What lies in Redis: outcomes, records, the registry, API keys. Whoever reaches Redis can write any of it."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import assume
from hypothesis import strategies as st
from pydantic import ValidationError

from api.auth import _read
from shared.api_keys import ApiKey
from shared.catalog import Catalog
from shared.depth import too_deep
from shared.errors import RecordUnreadable, ServiceError
from shared.model_spec import ModelsFile
from shared.outcomes import encode_outcome, job_view
from shared.registry import Registry
from shared.types import Outcome, State
from tests.fuzz.bounds import fuzzed
from tests.fuzz.hostile import changed, damaged, json_values

RECORD: dict[str, Any] = {
    "state": "succeeded",
    "model": "echo",
    "version": "1",
    "created_at": "1767225600000",
    "started_at": "1767225600010",
    "finished_at": "1767225600020",
    "deadline_at": "1767312000000",
    "attempt": "1",
    "labels": '{"a": "b"}',
    "request_id": "3f2b1c",
}
OUTCOMES = [
    Outcome(State.SUCCEEDED, output={"a": [1, "b"]}, timing={"queue_ms": 1.5, "batch_size": 3, "worker": "w"}),
    Outcome(State.FAILED, code="predict_error", message="it broke"),
    Outcome(State.CANCELED, code="canceled"),
]
METAS = [orjson.loads(encode_outcome("x", outcome, attempt=1, started_at=1767225600010)) for outcome in OUTCOMES]


def _texts(value: Any) -> dict[str, str]:
    """As a hash of Redis has them."""
    pairs = value.items() if isinstance(value, dict) else ()
    return {name: item if isinstance(item, str) else json.dumps(item) for name, item in pairs}


metas = st.one_of(changed(METAS).map(lambda meta: json.dumps(meta).encode()), damaged([orjson.dumps(m) for m in METAS]))


@fuzzed(changed([RECORD]).map(_texts), metas | st.just(b""), examples=80)
def test_jobs(record: dict[str, str], meta: bytes) -> None:
    with contextlib.suppress(ValueError):
        assume(not too_deep(orjson.loads(meta)))  # as none is written
    try:
        found = job_view("x", record, meta)
    except RecordUnreadable:
        return
    assert found.model_dump_json()


@fuzzed(json_values | st.binary(max_size=9) | st.just(object()), st.sampled_from(OUTCOMES[1:]))
def test_outcomes_are_written_or_refused(output: Any, failed: Outcome) -> None:
    with contextlib.suppress(TypeError):  # which becomes handler_contract
        meta = encode_outcome("x", Outcome(State.SUCCEEDED, output=output))
        assert job_view("x", RECORD, meta).model_dump_json()
    assert job_view("x", RECORD | {"state": failed.state}, encode_outcome("x", failed)).error is not None


MODELS: list[Any] = [
    {"task": "echo", "versions": {"1": {}, "2": {"source": "a", "x": [1, {"y": 2}]}}, "traffic": {"1": 1, "2": 0}},
    {"handler": "a.py:B", "versions": {"1": {"source": "s3://a/b.zip", "sha256": "0" * 64}}, "aliases": {"best": "1"}},
    {"task": "echo", "versions": {"1": {}}, "limits": {"timeout_s": 3.5, "per_key": {"requests": "9/minute"}}},
]
FILE = {"models": {"a": MODELS[0], "b/c.d": MODELS[1], "e": MODELS[2]}}
_NOW = Registry().with_models(ModelsFile.model_validate(FILE).models, outright=True).stamped()
DOCUMENTS = [
    _NOW,
    _NOW.with_traffic("a", {"1": 0.5, "2": 1}).stamped(),
    _NOW.with_version("a", "3", _NOW.models["a"].spec.versions["1"], replace=True).stamped(),
    _NOW.without("b/c.d").stamped(),
]
DOCUMENTS_JSON = [json.loads(registry.model_dump_json(exclude_defaults=True)) for registry in DOCUMENTS]


@fuzzed(changed(DOCUMENTS_JSON), examples=70)
def test_the_registry(document: Any) -> None:
    try:
        found = Registry.model_validate_json(json.dumps(document))
    except ValidationError:
        return
    catalog = found.catalog()
    wanted = {*found.wanted(), *found.served()}
    assert wanted >= {ref for ref, _, _ in catalog.refs()}
    with contextlib.suppress(ServiceError):
        catalog.resolve("a")
    written = found.stamped()
    assert Registry.model_validate_json(written.model_dump_json(exclude_defaults=True)) == written


@fuzzed(changed([FILE]), examples=80)
def test_what_a_models_file_says_survives_redis(file: Any) -> None:
    """And is the same again: else each start would be a change of the models."""
    try:
        specs = ModelsFile.model_validate(file).models
    except ValidationError:
        return
    written = Registry().with_models(specs, outright=True)
    read = Registry.model_validate_json(written.model_dump_json(exclude_defaults=True))
    assert read.with_models(specs, exact=True) is read
    for spec in specs.values():
        assert int(spec.limits.timeout_s * 1000) >= 0
    with contextlib.suppress(ServiceError):
        Catalog(specs).resolve("a", sticky="x")


KEY = ApiKey(name="a", models=frozenset({"echo"}), expires_at=datetime(2030, 1, 1, tzinfo=UTC)).model_dump_json()


@fuzzed(damaged([KEY.encode()]) | changed([json.loads(KEY)]).map(lambda key: json.dumps(key).encode()), examples=70)
def test_a_key_that_cannot_be_read_opens_nothing(stored: bytes) -> None:
    key = _read(stored)
    if key is not None:
        assert isinstance(key.expired(datetime.now(UTC)), bool)
        assert all(isinstance(scope, str) for scope in key.scopes)
