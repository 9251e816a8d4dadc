"""What only this service knows, for schemathesis (SCHEMATHESIS_HOOKS): a model that there is. Which input and which
parameters fit it, OpenAPI cannot say; `echo` takes any. And the key that it calls with, which it must not revoke."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

_MODEL = {"/inference": "model_type", "/v1/jobs": "model", "/v1/batches": "model", "/invocations": "model_type"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Three calls in four name it."""
    field = _MODEL.get(context.operation.path)
    if field and isinstance(body, dict) and isinstance(body.get(field), str) and len(body[field]) % 4:
        body[field] = "echo"
        body.pop("version", None)
        if isinstance(body.get("parameters"), dict):
            body["parameters"] = {}
    return body


@schemathesis.hook
def before_call(context: Any, case: Any, **_: Any) -> None:
    """Links lead from the list of keys to each of them."""
    parameters = case.path_parameters or {}
    if parameters.get("key_id") == os.environ["CONTRACT_KEY"]:
        parameters["key_id"] = "key_of_nobody"
