"""Plain Celery producers: `send_task("ml.predict", kwargs={"model", "input"}, queue="ml")` becomes a job of ours."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson
import redis

from shared import keys, messages, scripts
from shared.catalog import Catalog
from shared.depth import MAX_DEPTH, too_deep
from shared.errors import InvalidInput, ServiceError, UnknownModel
from shared.logs import Event, get_logger
from shared.origin import Carried
from shared.settings import Settings
from shared.task import count
from shared.tasks import BUILT_IN
from shared.types import Outcome, State
from worker.finisher import Finisher
from worker.holdings import Holdings
from worker.links import is_linked, wrong_link
from worker.registry import RegistryReader
from worker.report import Reporter
from worker.work import Work

logger = get_logger("worker")

_LONGEST_S = keys.MAX_DEADLINE_S


class Adopter:
    """Runs in the prepare pool."""

    def __init__(
        self,
        client: redis.Redis,
        registry: RegistryReader,
        settings: Settings,
        *,
        finisher: Finisher,
        holdings: Holdings,
        reporter: Reporter,
    ) -> None:
        self._client, self._registry, self._settings = client, registry, settings
        self._finisher, self._holdings, self._reporter = finisher, holdings, reporter

    def adopt(self, work: Work) -> None:
        """Write the record and move the message to its version's queue; an unknown model or a wrong message is a
        FAILURE outcome at once. `expires` becomes the deadline, `eta` (which a `countdown` is too) the start,
        `time_limit` the timeout; without a priority the job is a normal one, and 0 is none."""
        adopted = "outdated"
        while adopted == "outdated":
            try:
                call = self._call(work)
            except ServiceError as error:
                if isinstance(error, UnknownModel) and self._registry.refresh():  # it may be known by now
                    continue
                outcome = Outcome(State.FAILED, code=error.code, message=error.message, faults=error.faults)
                return self._finisher.end(work, outcome)
            adopted = scripts.one(scripts.run(self._client, [call]))
            if adopted == "outdated":
                self._registry.refresh()
        logger.info(Event.JOB_ADOPTED, new=adopted == "adopted")
        self._holdings.release(work.tag)
        self._reporter.forget(work)

    def _kwargs(self, request: Any, catalog: Catalog) -> tuple[dict[str, Any], str]:
        args, kwargs, _ = request._payload
        if request._type != messages.TASK:
            return _as_ours(request._type, args, kwargs, catalog)
        if args:
            raise InvalidInput('ml.predict takes keyword arguments: model="name" and input={...}')
        return kwargs, ""

    def _call(self, work: Work) -> scripts.Call[scripts.Adopted]:
        request, catalog = work.request, self._registry.catalog
        etag = catalog.etag
        _, _, embed = request._payload
        if too_deep(request._payload) or too_deep(request.message._raw):
            raise InvalidInput(f"the message is nested deeper than {MAX_DEPTH} levels")
        if wrong := wrong_link(embed):
            raise InvalidInput(wrong)
        kwargs, returns = self._kwargs(request, catalog)
        model = kwargs.get("model")
        if not isinstance(model, str) or "input" not in kwargs:
            raise InvalidInput('ml.predict takes keyword arguments: model="name" and input={...}')
        unknown = set(kwargs) - {"model", "version", "sticky", "input", "parameters"}
        if unknown:
            raise InvalidInput(f"ml.predict does not take {', '.join(sorted(unknown))}")
        version, sticky = kwargs.get("version"), kwargs.get("sticky")
        if not isinstance(sticky, str | None) or not isinstance(version, str | None):
            raise InvalidInput("version and sticky must be text")
        if not isinstance(kwargs.get("parameters"), dict | None):
            raise InvalidInput("parameters must be an object")
        ref = catalog.resolve(model, version, sticky=sticky)
        spec = catalog.spec(ref.model)
        # kombu writes 0 where its producer has given none.
        priority = keys.nearest_priority(request.message.properties.get("priority") or None)
        queue = keys.queue_name(ref.model, ref.version)
        body = {
            "model": ref.model,
            "version": ref.version,
            "input": kwargs["input"],
            "parameters": kwargs.get("parameters") or {},
        }
        timeout_s = _seconds(request.time_limits[0])
        items = count(BUILT_IN.get(spec.task or ""), kwargs["input"])
        raw = messages.readdress(
            request.message._raw,
            request.id,
            queue=queue,
            priority=priority,
            kwargs=body,
            embed=embed,
            timeout_s=timeout_s,
            returns=returns,
            items=items,
        )
        return scripts.adopt(
            work.tag,
            request.id,
            list_name=keys.queue_list(queue, priority),
            raw=raw,
            ref=str(ref),
            deadline_ms=int(self._settings.default_deadline_s * 1000),
            deadline_at=_instant_ms(request, "expires"),
            start_at=_start_ms(request),
            etag=etag,
            ttl_ms=int(self._settings.result_ttl_s * 1000),
            size=len(orjson.dumps(body["input"])),
            fields={
                "model": ref.model,
                "version": ref.version,
                "priority": priority,
                "timeout_ms": int((timeout_s or spec.limits.timeout_s) * 1000),
                "owner": keys.CELERY,
                **({"items": items} if items > 1 else {}),
                **({"linked": 1} if is_linked(request) else {}),
                **Carried.of(request.request_dict).fields(),
            },
        )


def _as_ours(name: str, args: Any, kwargs: Any, catalog: Catalog) -> tuple[dict[str, Any], str]:
    """A backend's own task as a call of ours, and which field of the output is its result. Raises InvalidInput."""
    found = catalog.celery_task(name)
    if found is None:
        raise InvalidInput(f"no model stands for the task {name!r} any more")
    model, spec = found
    if len(args) > len(spec.args):
        known = ", ".join(spec.args) or "none"
        raise InvalidInput(f"{name} takes up to {len(spec.args)} positional arguments ({known}), not {len(args)}")
    given = dict(zip(spec.args, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise InvalidInput(f"{name} got {', '.join(sorted(twice))} twice")
    given |= kwargs
    parameters = {field: given.pop(field) for field in spec.parameters if field in given}
    return {"model": model, "input": given, "parameters": parameters}, spec.returns


def _seconds(time_limit: Any) -> float | None:
    """Raises InvalidInput."""
    if time_limit is None:
        return None
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not 0 < time_limit < _LONGEST_S:
        raise InvalidInput(f"time_limit must be a number of seconds above 0, not {str(time_limit)[:40]!r}")
    return float(time_limit)


def _start_ms(request: Any) -> int | None:
    at = _instant_ms(request, "eta")
    if at is not None and at > (time.time() + _LONGEST_S) * 1000:
        raise InvalidInput(f"eta must be within {_LONGEST_S // 86_400} days")
    return at


def _instant_ms(request: Any, name: str) -> int | None:
    """Celery's `expires` or `eta` header: ISO 8601, UTC where it names no zone. Raises InvalidInput."""
    told = request.request_dict.get(messages.HIDDEN[name])
    if told is None:
        return None
    try:
        at = datetime.fromisoformat(told)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name} is not an instant in ISO 8601: {str(told)[:40]!r}") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
