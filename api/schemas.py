"""What requests and answers look like: validation of the envelope, and OpenAPI. Inputs are checked in inputs.py."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from shared.api_keys import Scope
from shared.errors import Fault
from shared.keys import MAX_DEADLINE_S, MOST_LINES, PriorityName
from shared.rates import Rates
from shared.registry_diff import Difference
from shared.types import Instant, Job, Timing
from shared.webhooks import BatchWebhook, JobWebhook, webhook_schema

_MOST_S = MAX_DEADLINE_S


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # pydantic would read true as 1
    return value


Seconds = Annotated[float, BeforeValidator(_number)]
Label = Annotated[str, StringConstraints(max_length=256)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[str, Field(examples=["1"])] | None = Field(
        None, description="a version or alias; without it the traffic weights decide"
    )
    sticky: Annotated[str, StringConstraints(min_length=1, max_length=256), Field(examples=["user-42"])] | None = Field(
        None, description="a key of yours: the traffic weights give the same key the same version, call after call"
    )
    parameters: dict[str, Any] | None = Field(None, description="the task's own; and `partial`: keep the good items")
    priority: PriorityName = "normal"
    deadline_s: Seconds | None = Field(
        None, gt=0, le=_MOST_S, description="after this the output is worthless: the job ends as deadline_exceeded"
    )
    result_ttl_s: Seconds | None = Field(None, ge=1, le=_MOST_S, description="how long the finished job can be read")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32, description="yours; returned with the job")


class _JobRequest(_Request):
    webhook: Annotated[JobWebhook | None, WithJsonSchema(webhook_schema("job"))] = Field(
        None, description="where the job's events are sent, signed: a URL, or with the events that are wanted"
    )


class InferenceRequest(_JobRequest):
    """One call, one answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"model_type": "bert", "data": {"text": "A queue keeps what it was given."}}]},
        protected_namespaces=(),
    )

    model_type: str | None = Field(None, description="a model of /v1/models; may be left out where there is only one")
    data: Any = Field(None, description="the model's input: see `input_schema` in /v1/models")


class JobRequest(_JobRequest):
    """A job for the queue."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": "bert", "input": {"texts": ["one", "two"]}, "labels": {"tenant": "acme"}}]
        },
    )

    model: str | None = Field(None, description="a model of /v1/models; may be left out where there is only one")
    input: Any = Field(None, description="the model's input: see `input_schema` in /v1/models")


class BatchRequest(_Request):
    """Many inputs for one model."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"model": "bert", "inputs": [{"text": "one"}, {"text": "two"}]}]},
    )

    model: str | None = Field(None, description="a model of /v1/models; may be left out where there is only one")
    inputs: list[Any] = Field(
        default_factory=list,
        description="1 to 100,000 inputs: see `input_schema` in /v1/models",
        min_length=1,
        max_length=MOST_LINES,
    )
    priority: PriorityName = "low"
    webhook: Annotated[BatchWebhook | None, WithJsonSchema(webhook_schema("batch"))] = Field(
        None, description="where the batch's end is told, signed: a URL, or with the events that are wanted"
    )


class InferenceAnswer(BaseModel):
    """The output of a call."""

    job_id: str
    model: str
    version: str
    fallback_for: str | None = Field(None, description="the model that was asked for, where `model` is its fallback")
    output: Any
    timing: Timing
    errors: list[Fault] | None = Field(None, description="failed positions of a call with `parameters.partial`")


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str
    instance: str = Field(examples=["/inference"])
    code: str = Field(examples=["invalid_input"], description="what to act on; one of a fixed list")
    errors: list[Fault] | None = Field(None, description="where in the request's body, by JSON pointer")
    job: str | None = Field(None, description="the job's URL")


class RolloutFailure(BaseModel):
    """A worker on which a coming version does not load."""

    version: str
    worker: str
    error: str


class Rollout(BaseModel):
    """A change of a model on its way: callers get what they got before until workers have what they are to get.
    `state` failed: nothing has changed for callers, and it is tried again; call it off with `rollback`."""

    model: str
    state: Literal["loading", "failed", "no_worker", "ready"]
    versions: list[str] = Field(description="that workers must load first")
    workers: int = Field(description="living workers that take this model")
    ready: int = Field(description="of these, those that have all of it")
    failures: list[RolloutFailure] = Field(default_factory=list)


class Changed(BaseModel):
    """The models after a change (or before it, for a dry run: `changes` is what it would do)."""

    generation: int
    changes: list[Difference] = Field(description="of what is to be; empty: nothing to change")
    rollouts: list[Rollout] = Field(description="what callers do not get yet")


class ModelEntry(BaseModel):
    """A model, in a shape that OpenAI's SDK reads too."""

    id: str = Field(examples=["bert"])
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds: since when this API serves it")
    owned_by: str = "ml-service"
    task: str | None = None
    versions: list[dict[str, Any]] = Field(description="version, ready (living workers), traffic (share), devices ...")
    aliases: dict[str, str] = Field(default_factory=dict)
    traffic: dict[str, float] = Field(default_factory=dict)
    ready: int = Field(description="living workers that serve a version of it")
    paused: bool = Field(False, description="workers start no job of it: an operator has paused it")
    paused_since: Instant | None = None
    rollout: Rollout | None = Field(None, description="a change of it on its way")
    limits: dict[str, Any] = Field(default_factory=dict)
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    parameters_schema: dict[str, Any] | None = None
    example: Any = None


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
    rollouts: list[Rollout] = Field(default_factory=list, description="changes on their way, also of new models")


class OpenAIError(BaseModel):
    """OpenAI's shape of an error."""

    error: dict[str, Any] = Field(
        examples=[{"message": "...", "type": "invalid_request_error", "param": None, "code": "model_not_found"}]
    )


class Health(BaseModel):
    """`status` is degraded while Redis is away: nothing can be queued, and what only Redis knows is null. All but it is
    told to who shows a key, where keys are on."""

    status: Literal["ok", "degraded"]
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict, examples=[{"bert": {"workers": 2, "queue_depth": 0}}]
    )
    workers: int | None = 0
    queue_depth: int | None = 0


class FileTold(BaseModel):
    """An uploaded file."""

    id: str = Field(examples=["file_5d41402abc4b2a76b9719d911017c592"])
    bytes: int
    sha256: str = Field(description="of its bytes, hexadecimal")
    content_type: str = Field(examples=["image/png"])
    created_at: Instant
    expires_at: Instant = Field(description="until then it can be used and read")


class JobPage(BaseModel):
    """Jobs, the newest first."""

    data: list[Job] = Field(description="without their output")
    next: str | None = Field(None, description="`cursor` of the next page; null: this is the last")


class Letter(BaseModel):
    """A dead letter: a message that nobody could work on."""

    id: str = Field(examples=["1767225600000-0"])
    reason: str = Field(
        examples=["attempts_exhausted"],
        description="attempts_exhausted: its job killed the process each time it ran alone; rejected: a worker could "
        "not read the message or had no record of its job; unparsable: not a task message at all",
    )
    created_at: Instant
    job_id: str | None = None
    model: str | None = None
    version: str | None = None
    queue: str
    attempts: int = Field(0, description="how often a worker started it")
    crashes: int = Field(0, description="how often the worker died of it while it ran alone")
    worker: str | None = Field(None, description="the last that started it")
    input_bytes: int | None = None
    message_bytes: int
    labels: dict[str, str] = Field(default_factory=dict)


class LetterPayload(BaseModel):
    """A part of the input that lies beside the message."""

    key: str = Field(
        description="in Redis, or in the payload store", examples=["ml:in:c5f3edde-7d1b-4787-bb57-854dba8915dd:0"]
    )
    pointer: str = Field(description="where in the input it belongs, by JSON pointer; empty or #: it is the input")
    bytes: int | None = Field(None, description="null: it is gone")


class LetterDetail(Letter):
    """A dead letter and its message."""

    obstacle: str | None = Field(None, description="why it cannot be retried; null if it can")
    arguments: dict[str, Any] | None = Field(None, description="what the message asks for, if it can be read")
    payloads: list[LetterPayload] = Field(default_factory=list)
    message: str = Field(description="as it lay in the queue")
    message_encoding: Literal["utf-8", "base64"]


class LetterPage(BaseModel):
    """Dead letters, the newest first."""

    letters: list[Letter]
    next: str | None = Field(None, description="`after` of the next page; null: this is the last")


class RequeueFailure(BaseModel):
    """A letter that could not be retried, and stays."""

    letter: str
    code: str = Field(examples=["cannot_retry"])
    detail: str


class Requeued(BaseModel):
    """Dead letters that were retried at once."""

    retried: int = 0
    failed: list[RequeueFailure] = Field(default_factory=list)
    next: str | None = Field(None, description="`after` of the next call, for older ones; null: there are none")


class KeyTold(BaseModel):
    """An API key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    models: list[str] | None = Field(description="that it may use; null: all")
    weight: int = Field(description="its share beside other keys, where jobs wait")
    limits: Rates
    created_at: Instant
    expires_at: Instant | None
    expired: bool


class NewKey(KeyTold):
    """An API key that was just made, or got a new secret."""

    secret: str = Field(description="shown this once: what is stored is its SHA-256")


class KeyList(BaseModel):
    """All keys, the oldest first."""

    data: list[KeyTold]


class UsageEntry(BaseModel):
    """What workers did for a key on one day with one version."""

    day: date
    model: str
    version: str
    jobs: int = Field(description="that a worker has ended, however they ended")
    items: int
    tokens: int = Field(description="of models whose cost is counted in tokens")
    device_s: float = Field(description="its share of the time that its batches were on a device")


class Usage(BaseModel):
    """What a key has used."""

    key: str
    first: date
    last: date
    data: list[UsageEntry]


class DeliveryAttempt(BaseModel):
    """An attempt to deliver."""

    at: Instant
    status: int | None = Field(description="what the receiver has answered; null: nothing")
    error: str | None = Field(description="why it was no success, where the status does not say")
    ms: int = Field(description="how long it took")


class Delivery(BaseModel):
    """An event on its way to the URL that asked for it."""

    id: str = Field(
        examples=["msg_c5f3edde-7d1b-4787-bb57-854dba8915dd_succeeded"],
        description="`webhook-id`, the same in every attempt",
    )
    event: str = Field(examples=["succeeded"])
    url: str
    state: Literal["due", "delivered", "failed", "disabled"] = Field(
        description="failed: its schedule is over; disabled: the receiver has answered 410, now or to another"
    )
    attempts: list[DeliveryAttempt] = Field(description="the last 20, the oldest first")
    next_at: Instant | None = Field(description="of one that is due: when it is tried again")


class DeliveryList(BaseModel):
    """All of a job or batch, in the order of their events."""

    data: list[Delivery]


class WebhookSecret(BaseModel):
    """What the key's webhooks are signed with."""

    secret: str = Field(examples=["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="])
    previous_until: Instant | None = Field(description="until when older ones sign beside it; null: none does")
