"""Each call of the client as a generator: its requests, and what their answers mean. Both clients run these."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx

from ml_service_client.arrays import FLOATS, Array, array_of
from ml_service_client.core.answers import body_of, dict_of, id_of
from ml_service_client.core.bodies import encode
from ml_service_client.core.options import envelope, key_header
from ml_service_client.core.retries import Policy, exchange
from ml_service_client.core.steps import Call, Request, Sleep
from ml_service_client.errors import MLServiceError
from ml_service_client.problems import WaitEnded
from ml_service_client.records import Model
from ml_service_client.types import Answer, Job, Json

HOLD_S = 25  # proxies cut connections that say nothing for longer
_JSON = {"Content-Type": "application/json"}
Clock = Callable[[], float]


def ask(policy: Policy, method: str, path: str, *, json: Any = None, **more: Any) -> Call[Json]:
    """Any call; its JSON, empty where the answer has none."""
    headers = dict(more.pop("headers", None) or {})
    content = None
    if json is not None:
        content, headers = encode(json), {**_JSON, **headers}
    response = yield from exchange(Request(method, path, headers=headers, content=content, **more), policy)
    return dict_of(response) if response.content else {}


def inference(policy: Policy, model: str, data: Any, options: Mapping[str, Any], patience_s: float) -> Call[Answer]:
    """`POST /inference`."""
    response = yield from exchange(_inference(model, data, options, patience_s), policy)
    return Answer(dict_of(response))


def inference_array(
    policy: Policy, model: str, data: Any, options: Mapping[str, Any], patience_s: float
) -> Call[Array]:
    """The same, with an embedding as binary floats."""
    response = yield from exchange(_inference(model, data, options, patience_s, accept=FLOATS), policy)
    return array_of(response)


def _inference(
    model: str, data: Any, options: Mapping[str, Any], patience_s: float, accept: str | None = None
) -> Request:
    headers = {**_JSON, **key_header(options)}
    if accept:
        headers["Accept"] = accept
    # The service gives up first, and then tells which job it was.
    headers["Prefer"] = f"wait={max(1, math.floor(patience_s - 1))}"
    content = encode({"model_type": model, "data": data, **envelope(options)})
    return Request("POST", "/inference", headers=headers, content=content)


def submit(policy: Policy, model: str | None, given: Any, options: Mapping[str, Any], wait_s: float = 0.0) -> Call[Job]:
    """`POST /v1/jobs`."""
    headers = {**_JSON, **key_header(options)}
    held_s = 0
    if wait_s > 0:
        held_s = max(1, min(HOLD_S, math.ceil(wait_s)))
        headers["Prefer"] = f"wait={held_s}"
    body = {"input": given, **envelope(options)}
    if model is not None:
        body["model"] = model
    request = Request("POST", "/v1/jobs", headers=headers, content=encode(body), held_s=held_s)
    return Job.of(dict_of((yield from exchange(request, policy))))


def get(policy: Policy, job: object) -> Call[Job]:
    """`GET /v1/jobs/{id}`."""
    return Job.of((yield from ask(policy, "GET", f"/v1/jobs/{id_of(job)}")))


def cancel(policy: Policy, job: object) -> Call[Job]:
    """`DELETE /v1/jobs/{id}`."""
    return Job.of((yield from ask(policy, "DELETE", f"/v1/jobs/{id_of(job)}")))


def wait(policy: Policy, job: object, timeout_s: float | None, clock: Clock = time.monotonic) -> Call[Job]:
    """Until it has ended, with its output. Raises WaitEnded after `timeout_s`."""
    path = f"/v1/jobs/{id_of(job)}"
    found = yield from held(policy, path, timeout_s, clock, lambda raw: Job.of(raw).done)
    return (yield from whole(policy, Job.of(found)))


def whole(policy: Policy, job: Job) -> Call[Job]:
    """The job with its output, where that was too large to stand in it."""
    if job.succeeded and job.output is None and job.output_url:
        fetched = yield from output(policy, job)
        return Job.of({**job.raw, "output": fetched, "output_url": None})
    return job


def held(policy: Policy, path: str, timeout_s: float | None, clock: Clock, done: Callable[[Json], bool]) -> Call[Json]:
    """Long polls of a path until what is there is done."""
    end = math.inf if timeout_s is None else clock() + timeout_s
    while True:
        began = clock()
        held_s = max(0, min(HOLD_S, math.ceil(end - began))) if end < math.inf else HOLD_S
        request = Request("GET", path, params={"wait": str(held_s)}, held_s=held_s)
        response = yield from exchange(request, policy)
        found = dict_of(response)
        if done(found):
            return found
        now = clock()
        if now >= end:
            raise _wait_ended(response, found, timeout_s)
        if now - began < 1.0:  # it was not held: the API is being replaced
            yield Sleep(min(1.0, end - now))


def _wait_ended(response: httpx.Response, found: Json, timeout_s: float | None) -> MLServiceError:
    told = f"it is {found.get('state')} after {timeout_s:g} s, and goes on"
    request_id = response.headers.get("x-request-id")
    return WaitEnded(told, request=response.request, response=response, job=found.get("id"), request_id=request_id)


def output(policy: Policy, job: object) -> Call[Any]:
    """`GET /v1/jobs/{id}/output`."""
    return body_of((yield from exchange(Request("GET", f"/v1/jobs/{id_of(job)}/output"), policy)))


def output_array(policy: Policy, job: object) -> Call[Array]:
    """The same, as binary floats."""
    request = Request("GET", f"/v1/jobs/{id_of(job)}/output", headers={"Accept": FLOATS})
    return array_of((yield from exchange(request, policy)))


def job_filters(
    state: str | Iterable[str] | None, model: str | None, labels: Mapping[str, str] | None, page: int
) -> dict[str, str | list[str]]:
    """The query of `GET /v1/jobs`."""
    filters: dict[str, str | list[str]] = {"limit": str(page)}
    if state is not None:
        filters["state"] = state if isinstance(state, str) else ",".join(state)
    if model is not None:
        filters["model"] = model
    if labels:
        filters["label"] = [f"{name}:{value}" for name, value in labels.items()]
    return filters


def no_key(options: Mapping[str, Any]) -> None:
    """Raises TypeError for one idempotency key of many inputs, and for options that there are not."""
    envelope(options)
    if options.get("idempotency_key") is not None:
        raise TypeError("each input of a map has a key of its own: give `key`, a function of its number")


def jobs_page(
    policy: Policy, filters: Mapping[str, str | list[str]], cursor: str | None
) -> Call[tuple[list[Job], str | None]]:
    """One page of `GET /v1/jobs`, and the cursor of the next."""
    params = {**filters, **({"cursor": cursor} if cursor else {})}
    page = yield from ask(policy, "GET", "/v1/jobs", params=params)
    return [Job.of(one) for one in page["data"]], page.get("next")


def models(policy: Policy) -> Call[list[Model]]:
    """`GET /v1/models`."""
    return [Model.of(one) for one in (yield from ask(policy, "GET", "/v1/models"))["data"]]


def model(policy: Policy, name: str) -> Call[Model]:
    """`GET /v1/models/{name}`."""
    return Model.of((yield from ask(policy, "GET", f"/v1/models/{name}")))
