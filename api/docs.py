"""OpenAPI of the routes that read their body themselves."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.bodies import INFERENCE, JOBS, Face
from api.errors import PROBLEM_JSON
from api.schemas import BatchRequest, ProblemDocument
from shared.keys import MOST_LINES
from shared.types import State
from shared.webhooks import EVENTS as WEBHOOK_EVENTS

IDEMPOTENCY_KEY = r"^[ -~]*[!-~][ -~]*$"
_KEY = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": IDEMPOTENCY_KEY}
_FILE = {"type": "string", "format": "binary"}
BINARY = {"application/octet-stream": {"schema": _FILE}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {"content": {PROBLEM_JSON: {"schema": schema}}, "description": _MEANING[status]} for status in statuses
    }


def openai_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route that speaks to OpenAI's SDKs. There, what is wrong with an input is 400."""
    told = problems(*statuses)
    for answer in told.values():
        answer["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}}
    return told


_MEANING = {
    400: "The body cannot be read",
    401: "An API key is needed, or this one is not known",
    403: "This API key may not; or, where keys are off, administration answers only to this machine",
    404: "Unknown model, version, job, batch, file, key, worker or dead letter",
    406: "The output is not an array of numbers, and JSON was not asked for",
    408: "The request came too slowly",
    409: "The job was canceled or has not ended, the dead letter cannot be retried, the version cannot be changed, "
    "nothing can be delivered again, or there are too many files",
    412: "The models have changed since you have read them",
    413: "The body or the input is too large",
    415: "This content type is not supported",
    429: "This caller asks for more than it may; see Retry-After and RateLimit",
    422: "The input does not fit; `errors` name the fields",
    500: "The model failed on this input",
    502: "A managed provider, or the address of an input, did not do what it was asked",
    503: "The queue is full, or Redis is away; see Retry-After",
    504: "The wait or the deadline is over; `job` is where to poll",
    507: "The device has not enough memory for this input",
}


def _self_contained(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    assert "$defs" not in schema, "the request models are flat, so that they can stand in the path itself"  # noqa: S101 - holds for all of ours
    return schema


def links(names: dict[str, str], *targets: str) -> dict[str, Any]:
    """OpenAPI's links to `METHOD path`s: their parameters by the fields of the answer that they are taken from."""
    found = {}
    for target in targets:
        method, _, path = target.partition(" ")
        escaped = path.replace("~", "~0").replace("/", "~1")
        told = {name: f"$response.body#/{field}" for name, field in names.items()}
        found[target] = {"operationRef": f"#/paths/{escaped}/{method.lower()}", "parameters": told}
    return found


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that reads `model` from its body itself; `describe` must be told of the model too."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _body(face: Face) -> dict[str, Any]:
    schema = _self_contained(face.schema) | {"required": [face.input_field]}
    parts = {face.input_field: "the input's other fields", "parameters": "", "labels": ""}
    form = {
        "schema": {
            "type": "object",
            "anyOf": [{"required": [face.input_field]}, {"required": ["image"]}],
            "properties": {face.model_field: {"type": "string"}, "image": _FILE, "webhook": {"type": "string"}}
            | {name: {"type": "object", "description": told or "as in JSON"} for name, told in parts.items()},
        },
        "encoding": {name: {"contentType": "application/json"} for name in parts},
    }
    query = [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": told}
        for name, told in ((face.model_field, "the model, for a raw file"), ("version", "its version"))
    ]
    headers = [
        {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "description": "respond-async, wait=N"},
        {"name": "Idempotency-Key", "in": "header", "schema": _KEY},
    ]
    return {
        "parameters": [*query, *headers],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema},
                "image/*": {"schema": _FILE},
                "multipart/form-data": form,
            },
        },
    }


INFERENCE_BODY = _body(INFERENCE)
JOBS_BODY = _body(JOBS)
BATCH_BODY = {
    "parameters": [
        *(
            {"name": name, "in": "query", "schema": {"type": "string"}, "description": f"{told}; of JSON lines"}
            for name, told in (
                ("model", "the model"),
                ("version", "a version or alias"),
                ("sticky", "a key of yours"),
                ("priority", "high, normal or low (the default)"),
                ("deadline_s", "seconds"),
                ("result_ttl_s", "seconds"),
                ("parameters", "a JSON object"),
                ("labels", "a JSON object"),
            )
        ),
        {"name": "Idempotency-Key", "in": "header", "schema": _KEY},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _self_contained(BatchRequest) | {"required": ["inputs"]}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "one input a line"}},
        },
    },
}
_CURSOR = r"^[0-9]{1,15}-batch_[0-9a-f]{32}$"
BATCHES_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, schema, told in (
            ("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "batches of a page"),
            ("cursor", {"type": "string", "pattern": _CURSOR}, "`next` of the page before"),
        )
    ]
}
RESULTS_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, schema, told in (
            ("start", {"type": "integer", "minimum": 0, "maximum": MOST_LINES, "default": 0}, "the first line to tell"),
            ("follow", {"type": "boolean", "default": False}, "wait for the lines that have not ended"),
        )
    ]
}
WAIT_QUERY = {
    "parameters": [
        {"name": "wait", "in": "query", "schema": {"type": "number", "minimum": 0}, "description": "seconds, clamped"}
    ]
}
_STATE = f"({'|'.join(State)})"
JOBS_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, schema, told in (
            (
                "state",
                {"type": "string", "pattern": f"^{_STATE}(,{_STATE})*$"},
                "only these: one or several, with commas between",
            ),
            ("model", {"type": "string"}, "only of this model, or `name@version`"),
            (
                "label",
                {"type": "array", "maxItems": 32, "items": {"type": "string", "pattern": ":"}},
                "`name:value`; of several all must be there",
            ),
            ("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "jobs of a page"),
            ("cursor", {"type": "string", "pattern": "^[0-9]{1,15}-[!-~]{1,512}$"}, "`next` of the page before"),
        )
    ]
}
EVENTS = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "schema": {"type": "string"},
            "description": "the last id that you have, 1 to 3: only what came after is sent; others are passed over",
        }
    ]
}
REDELIVER_QUERY = {
    kind: {
        "parameters": [
            {
                "name": "event",
                "in": "query",
                "schema": {"type": "string", "enum": list(events)},
                "description": "of this event alone",
            }
        ]
    }
    for kind, events in WEBHOOK_EVENTS.items()
}
DEAD_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, schema, told in (
            ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}, "letters of a page"),
            ("after", {"type": "string", "pattern": r"^\d{1,19}-\d{1,19}$"}, "`next` of the page before"),
            ("reason", {"type": "string"}, "only these"),
            ("model", {"type": "string"}, "only of this model, or `name@version`"),
            ("label", {"type": "string"}, "only with this label, as `name:value`; may be given again"),
        )
    ]
}
REQUEUE_QUERY = {
    "parameters": [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10_000}}
        | {"description": "letters to look at (1000)"},
        *DEAD_QUERY["parameters"][1:],
    ]
}


def describe(app: FastAPI, *models: type[BaseModel], open_paths: Collection[str] = ()) -> None:
    """The app's OpenAPI, with the models that routes name by reference, and what its middleware answers."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = told.setdefault("components", {}).setdefault("schemas", {})
            named: list[type[BaseModel]] = [ProblemDocument, *models]
            for model in named:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
            for path, operations in told["paths"].items():
                for operation in operations.values():
                    _add_middleware(operation, is_open=path in open_paths)
            told["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, where keys are on"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            told["security"] = [{"bearer": []}, {"header": []}, {}]
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


_PLAIN = r"^[^\x00-\x1f\x7f]+$"  # PlainPath refuses control characters


def _add_middleware(operation: dict[str, Any], *, is_open: bool) -> None:
    """What may be answered before a route is reached: 400 to a path that cannot be, 401 without a key."""
    for status, told in problems(400, *(() if is_open else (401,))).items():
        operation["responses"].setdefault(str(status), told)
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["schema"].get("type") == "string":
            parameter["schema"].setdefault("pattern", _PLAIN)
