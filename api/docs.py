"""OpenAPI of the routes that read their body themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.bodies import INFERENCE, JOBS, Face
from api.errors import PROBLEM_JSON
from api.schemas import Problem

_FILE = {"type": "string", "format": "binary"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"content": {PROBLEM_JSON: {"schema": schema}}, "description": _MEANING[status]} for status in statuses
    }


_MEANING = {
    400: "The body cannot be read",
    401: "An API key is needed, or this one is not known",
    403: "This API key may not; or, where keys are off, administration answers only to this machine",
    404: "Unknown model, version, job, key or dead letter",
    409: "The job was canceled, the dead letter cannot be retried, or the version cannot be changed",
    412: "The models have changed since you have read them",
    413: "The body or the input is too large",
    415: "This content type is not supported",
    429: "This caller asks for more than it may; see Retry-After and RateLimit",
    422: "The input does not fit; `errors` name the fields",
    500: "The model failed on this input",
    503: "The queue is full, or Redis is away; see Retry-After",
    504: "The wait or the deadline is over; `job` is where to poll",
    507: "The device has not enough memory for this input",
}


def _self_contained(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    assert "$defs" not in schema, "the request models are flat, so that they can stand in the path itself"  # noqa: S101
    return schema


def _body(face: Face) -> dict[str, Any]:
    schema = _self_contained(face.schema)
    fields = {face.model_field: {"type": "string"}, "image": _FILE}
    for name in (face.input_field, "parameters"):
        fields[name] = {"type": "string", "description": "JSON"}
    query = [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": told}
        for name, told in ((face.model_field, "the model, for a raw file"), ("version", "its version"))
    ]
    headers = [
        {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "description": "respond-async, wait=N"},
        {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}},
    ]
    return {
        "parameters": [*query, *headers],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema},
                "image/*": {"schema": _FILE},
                "multipart/form-data": {"schema": {"type": "object", "properties": fields}},
            },
        },
    }


INFERENCE_BODY = _body(INFERENCE)
JOBS_BODY = _body(JOBS)
WAIT_QUERY = {
    "parameters": [
        {"name": "wait", "in": "query", "schema": {"type": "number", "minimum": 0}, "description": "seconds, clamped"}
    ]
}
DEAD_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, schema, told in (
            ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}, "letters of a page"),
            ("after", {"type": "string"}, "`next` of the page before"),
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


def describe(app: FastAPI) -> None:
    """The app's OpenAPI, with the parts that routes name by reference."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = told.setdefault("components", {}).setdefault("schemas", {})
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {"Problem": schema}
            told["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, where keys are on"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            told["security"] = [{"bearer": []}, {"header": []}, {}]
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
