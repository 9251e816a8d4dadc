"""What models.yaml says of a model, and `PUT /v1/models` takes: versions, batches, limits, a backend's own tasks."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from shared.depth import too_deep
from shared.fallback import FallbackSpec, unfit
from shared.keys import INTAKE
from shared.messages import TASK
from shared.providers import ProviderOptions, check_source, check_task, provider_of
from shared.rates import Rates
from shared.tasks import BUILT_IN, REMOTE_ONLY

_MOST_LEVELS = 100
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")

ModelName = Annotated[str, StringConstraints(pattern=_NAME.pattern, max_length=128)]
VersionName = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v),
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64),
]
TaskName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
QueueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$", max_length=128)]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]

FILE_URL, S3_URL = "file://", "s3://"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def _kept(value: JsonValue) -> JsonValue:
    if too_deep(value, _MOST_LEVELS):
        raise ValueError(f"more than {_MOST_LEVELS} levels cannot be kept in Redis")
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("an infinite number, or none, cannot be kept in Redis") from None
    return value


# YAML knows more than JSON, in which the registry keeps what the file says, and of which pydantic reads 200 levels.
Option = Annotated[JsonValue, AfterValidator(_kept)]


def _may_be_hub_id(source: str) -> bool:
    """`NAME` or `OWNER/NAME`; a folder may look the same."""
    return re.fullmatch(r"(hub:)?[\w.-]+(/[\w.-]+)?", source) is not None and not source.startswith(".")


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BatchSpec(_Spec):
    """How many items make a batch. `max_cost: auto` is found by a trial at load (worker/calibrate.py); without one it
    is 1024 tokens on a CPU and 16384 on a GPU (for tasks whose cost is 1 an item, only `max_size` cuts). `max_wait_ms`:
    an idle device waits so long for company; 0 runs at once."""

    max_size: int = Field(64, ge=1, le=4096)
    max_cost: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    max_wait_ms: float = Field(0, ge=0, le=10_000)


def _batch(value: Any) -> Any:
    return {} if value == "auto" else value


# `auto` alone is what goes without saying.
Batch = Annotated[BatchSpec, BeforeValidator(_batch, json_schema_input_type=Literal["auto"] | BatchSpec)]


class Limits(_Spec):
    """`queue`: waiting and running jobs; `queue_bytes`: their inputs; `timeout_s`: one call of the handler;
    `input_bytes`: one job; `on_overlong`: what happens to a text over the model's own limit; `per_key`: what one caller
    may ask of this model, beside its own limits."""

    queue: int = Field(10_000, ge=1)
    queue_bytes: int = Field(1_000_000_000, ge=1)
    timeout_s: float = Field(60, gt=0)
    input_bytes: int = Field(1_000_000, ge=1)
    on_overlong: Literal["truncate", "refuse"] = "truncate"
    per_key: Rates = Rates()


class VersionSpec(BaseModel):
    """`source`: a hub id (`hub:NAME` for a handler of one's own), a folder, an archive (`file://`, `s3://`),
    `torchvision:NAME`, `package:NAME` (a model inside an installed distribution), or a managed provider's
    (shared/providers.py, which also has its further fields). `revision`: of a hub id. `sha256`: of an archive.
    `trust_remote_code`: run the code that a model's files bring along. `dtype: auto`: the fastest that gives about what
    float32 gives, found at load. `quantize: int8`: its Linear layers, at load; `compile`: by torch.compile; `runtime:
    onnx`: the .onnx file of a folder (where source is such a file it goes without saying). Other fields go to the
    handler as `ctx.options`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Option] = Field(init=False)

    source: str = ""
    revision: str | None = Field(None, min_length=1, max_length=200)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    trust_remote_code: bool = False
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = "float32"
    quantize: Literal["int8"] | None = None
    compile: bool = False
    runtime: Literal["torch", "onnx"] | None = None

    @property
    def provider(self) -> str:
        """The managed provider that runs it; empty: this service does."""
        return provider_of(self.source)

    @property
    def onnx(self) -> bool:
        """Whether ONNX Runtime runs it."""
        return self.runtime == "onnx" or (self.runtime is None and self.source.endswith(".onnx"))

    @model_validator(mode="after")
    def _consistent(self) -> VersionSpec:
        if self.source.startswith(S3_URL) and self.sha256 is None:
            raise ValueError(
                f"source {self.source} needs its sha256: who can write to the bucket could change the model"
            )
        if self.source.startswith((FILE_URL, S3_URL)):
            if not self.source.endswith(_ARCHIVES):
                raise ValueError(f"source {self.source} is no archive that is known: {', '.join(_ARCHIVES)}")
        elif self.sha256 is not None:
            raise ValueError("sha256 is of an archive: a source that begins with file:// or s3://")
        if self.revision is not None and not _may_be_hub_id(self.source):
            raise ValueError("revision is of a hub id: source names none")
        if self.provider:
            check_source(self.source)
            own = {"source", *ProviderOptions.model_fields}
            if others := sorted(name for name in self.model_fields_set if name not in own):
                raise ValueError(f"{others[0]}: {self.source} has no such field; it has {', '.join(sorted(own))}")
            self.provider_options()
        return self

    def provider_options(self) -> ProviderOptions:
        """Of a version that a provider runs."""
        return ProviderOptions.model_validate(self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The fields that only the handler understands."""
        return dict(self.model_extra or {})


class CelerySpec(_Spec):
    """Tasks that a backend had a Celery worker of its own for: those of these `names` are taken from `queue`. `args`:
    which fields of the input their positional arguments are; `parameters`: which keyword arguments are parameters of
    the model's task, and no fields; `returns`: which field of the output is their result (empty: the output)."""

    names: list[TaskName] = Field(min_length=1)
    queue: QueueName
    args: list[FieldName] = []
    parameters: list[FieldName] = []
    returns: str = ""

    @model_validator(mode="after")
    def _not_ours(self) -> CelerySpec:
        if self.queue == INTAKE or self.queue.startswith(f"{INTAKE}."):
            raise ValueError(f"queue {self.queue!r}: names that begin with {INTAKE!r} are this service's own")
        if TASK in self.names:
            raise ValueError(f"names: {TASK!r} is this service's own")
        return self


class ModelSpec(_Spec):
    """One model of models.yaml: a built-in `task`, or a `handler` of the user's own (`path/to/file.py:Class` or
    `package.module:Class`). `load: preload`: at start, before the worker is ready; `lazy`: when jobs wait for it, and
    unloaded when nobody has used it for `keep_alive_s` (0: only where others need the memory)."""

    task: str | None = None
    handler: str | None = Field(None, pattern=r"^[^:]+:[A-Za-z_][A-Za-z0-9_]*$")
    versions: dict[VersionName, VersionSpec] = Field(min_length=1)
    traffic: dict[VersionName, float] | None = None
    aliases: dict[VersionName, VersionName] = Field(default_factory=dict)
    load: Literal["preload", "lazy"] = "preload"
    keep_alive_s: float = Field(300, ge=0)
    batch: Batch = BatchSpec()
    limits: Limits = Limits()
    celery: CelerySpec | None = None
    fallback: FallbackSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if (self.task is None) == (self.handler is None):
            raise ValueError("give either task or handler")
        if self.task is not None and self.task not in BUILT_IN:
            raise ValueError(f"unknown task {self.task!r}; one of {', '.join(sorted(BUILT_IN))}, or give a handler")
        for version in self.versions.values() if self.task else ():
            if version.provider:
                check_task(version.source, self.task or "")
            elif self.task in REMOTE_ONLY:
                raise ValueError(f"task {self.task!r} is done by a managed provider: source must name one")
        for field, names in (("traffic", self.traffic or {}), ("aliases", self.aliases.values())):
            for name in names:
                if name not in self.versions:
                    raise ValueError(f"{field} names version {name!r}, which is not in versions")
        if self.traffic and (min(self.traffic.values()) < 0 or sum(self.traffic.values()) <= 0):
            raise ValueError("traffic weights must not be negative, nor all 0")
        if self.fallback is not None:
            self.fallback.check(self.task)
        return self

    def build(self, version: str) -> str:
        """A digest of all that one version is loaded with: of another build, the model must be loaded anew."""
        limits = {"timeout_s": self.limits.timeout_s, "on_overlong": self.limits.on_overlong}
        parts = [self.task, self.handler, self.batch.model_dump(), limits, self.versions[version].model_dump()]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def only(self, version: str) -> ModelSpec:
        """With this version alone."""
        change: dict[str, Any] = {"versions": {version: self.versions[version]}, "traffic": None, "aliases": {}}
        return self.model_copy(update=change)

    def weights(self) -> dict[str, float]:
        """Version -> share; all to the newest (the last in the file) where the file gives none."""
        return self.traffic or {list(self.versions)[-1]: 1.0}


class ModelsFile(_Spec):
    """What models.yaml says, and `PUT /v1/models` takes."""

    models: dict[ModelName, ModelSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_model_a_task(self) -> ModelsFile:
        seen: dict[str, str] = {}
        for model, spec in self.models.items():
            for name in spec.celery.names if spec.celery else ():
                if seen.setdefault(name, model) != model:
                    raise ValueError(f"the Celery task {name!r} is named by two models: {seen[name]} and {model}")
        return self

    @model_validator(mode="after")
    def _fallbacks_fit(self) -> ModelsFile:
        for model in self.models:
            if why := unfit(model, self.models):
                raise ValueError(f"models.{model}.{why}")
        return self
