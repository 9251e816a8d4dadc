"""Every setting, from the environment (prefix `ML_`; the seed's `MODEL_CACHE_DIR` has none). Read once, at start."""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, ByteSize, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared import health, keys
from shared.addresses import Rules
from shared.credentials import read_password
from shared.errors import ConfigError
from shared.keys import MAX_DEADLINE_S
from shared.payload_place import Place
from shared.redis_url import Address, parse

_MOST_DELAY_S = 7 * 86_400
_SERVERS, _SENTINELS = "ML_REDIS_PASSWORD_FILE", "ML_SENTINEL_PASSWORD_FILE"


class Settings(BaseSettings):
    """Durations end in `_s`, sizes in `_bytes`. Raises ConfigError for a wrong `redis_url`, `redis_password_file` or
    `sentinel_password_file`, else ValidationError. Its repr shows no secret."""

    model_config = SettingsConfigDict(env_prefix="ML_", extra="ignore", frozen=True, hide_input_in_errors=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    """Redis >= 7.0 or Valkey, in one of the forms of shared/redis_url.py. May be shared with other apps."""
    redis_password_file: Path | None = None
    """A file whose one line is the password for `redis_url`, where that has none; empty: no file."""
    sentinel_password_file: Path | None = None
    """The same for the sentinels' own, which is the URL's `sentinel_password`."""

    models_file: Path = Path("models.yaml")
    model_cache_dir: Path | None = Field(None, validation_alias=AliasChoices("MODEL_CACHE_DIR", "ML_MODEL_CACHE_DIR"))
    """A folder with model files: a relative `source` that exists in it is taken from there."""

    # API
    host: str = "127.0.0.1"
    port: int = Field(8001, ge=0, le=65535)
    listen_fd: int | None = Field(None, ge=0, lt=2**31)
    """A listening TCP socket that was inherited: the API serves on it instead of binding host and port."""
    auth: Literal["auto", "on", "off"] = "auto"
    """Whether callers need an API key; auto: unless the API listens on a loopback address alone."""
    inference_wait_s: float = Field(25.0, gt=0, lt=30)
    """How long `/inference` waits. Below 30: the seed's client gives up then."""
    max_wait_s: float = Field(60.0, gt=0)
    """The longest `Prefer: wait` and `?wait=`; more is clamped and told in `Preference-Applied`."""
    max_body_bytes: int = Field(32_000_000, gt=0)
    """Of any request; a model's own `limits.input_bytes` may be lower."""
    max_batch_bytes: int = Field(512_000_000, gt=0)
    """Of a batch sent as JSON lines; each of its lines may have `max_body_bytes`."""
    batch_upload_s: float = Field(3600.0, gt=0)
    """How long a batch may take to be sent."""
    header_timeout_s: float = Field(10.0, gt=0)
    """How long the head of a request may take, from its first byte."""
    body_timeout_s: float = Field(30.0, gt=0)
    """How long its body may take, and one second more for each 10 kB that have come; also how long a caller may not
    read its answer."""
    drain_s: float = Field(30.0, ge=0)
    """On SIGTERM: how long the API holds waiting callers for their outcome."""

    default_model: str = ""
    """Which model `/invocations` and Vertex AI's route mean when a call names none; empty: the only one."""
    vertex_predict_route: str = Field("", validation_alias=AliasChoices("ML_VERTEX_PREDICT_ROUTE", "AIP_PREDICT_ROUTE"))
    """Where Vertex AI sends `{"instances": [...]}`; it sets AIP_PREDICT_ROUTE in the container. Empty: nowhere."""
    vertex_health_route: str = Field("", validation_alias=AliasChoices("ML_VERTEX_HEALTH_ROUTE", "AIP_HEALTH_ROUTE"))
    """Where it asks whether the container is ready; it sets AIP_HEALTH_ROUTE."""

    # Calls to addresses that callers name
    outbound_allow: str = ""
    """What may be called though it is not public, as in hooks.corp,10.2.0.0/16."""
    outbound_https_only: bool = False

    # Webhooks
    webhook_delivery: Literal["api", "off"] = "api"
    """Whether API processes deliver them; off: `python -m api deliver` does."""
    webhook_schedule: str = "5,30,120,600,3600,10800,21600,21600,21600"
    """Seconds from each attempt that failed to the next; after the last no more."""
    webhook_timeout_s: float = Field(15.0, gt=0, le=60)
    webhook_concurrency: int = Field(64, ge=1, le=1000)
    """Deliveries at the same time, of one process."""
    webhook_host_concurrency: int = Field(8, ge=1)
    """Of these to one host."""
    webhook_output_bytes: int = Field(256_000, ge=0)
    """A larger output does not stand in the webhook, which then says where it is to be fetched."""

    # Jobs
    default_deadline_s: float = Field(86_400.0, gt=0, le=MAX_DEADLINE_S)
    result_ttl_s: float = Field(3600.0, gt=0)
    """How long a finished job and its output can be read."""
    durability: Literal["everysec", "fsync", "replica"] = "everysec"
    """What 202 promises: the job is in Redis, which writes it to disk within a second; or it is on the disk; or
    replicas have it."""
    replicas: int = Field(1, ge=1)
    """How many of them."""
    inline_bytes: int = Field(32_000, ge=0)
    """A larger input does not travel in the message but in keys of its job, or in the payload store."""
    payload_store: str = "redis"
    """Where large parts of inputs, large outputs and files lie: redis, file:///FOLDER, or s3://BUCKET/PREFIX."""
    s3_endpoint: str = ""
    """Of an S3 that is not Amazon's, as in http://minio:9000; empty: AWS_ENDPOINT_URL, else Amazon's."""
    store_bytes: int = Field(256_000, ge=0)
    """A larger part of an input goes to the payload store, where that is not Redis."""
    output_inline_bytes: int = Field(1_000_000, ge=1)
    """A larger output goes there too."""
    signed_url_s: float = Field(3600.0, ge=0, le=7 * 86_400)
    """How long a signed URL to an output in S3 holds; 0: none is given, the API hands outputs on."""
    max_file_bytes: int | None = Field(None, ge=1)
    """Of one uploaded file; None: 512 MB, and 64 MB where Redis is the payload store."""
    files_bytes: int | None = Field(None, ge=1)
    """Of all files of one key at a time; None: 10 GB, and 256 MB where Redis is the payload store."""
    file_ttl_s: float = Field(86_400.0, gt=0, le=MAX_DEADLINE_S)
    """How long a file can be used and read."""
    input_urls: Literal["on", "off"] = "off"
    """Whether an input may name a URL in the place of bytes, which the API then fetches."""
    input_url_timeout_s: float = Field(10.0, gt=0)
    batch_window: int = Field(1000, ge=1)
    """So many lines of a batch are in the queue at a time; never more than half of what the model's queue takes."""
    max_attempts: int = Field(3, ge=1)
    """A job whose worker process died this often while it ran alone has failed."""
    dead_ttl_s: float = Field(float(keys.DEAD_TTL_S), gt=0)
    """How long dead letters and their payloads are kept."""

    # Worker
    models: str = ""
    """Which models this worker takes, as in bert,cnn; @providers: those that managed providers run; @local: all
    others; empty: all."""
    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    device: str = "auto"
    """auto (a free GPU, or cpu where there is none), cpu, cuda (a free GPU or exit), or a GPU's UUID."""
    gpu_slots: int = Field(1, ge=1)
    """Workers that may share one GPU."""
    lock_dir: Path = Path(tempfile.gettempdir(), "ml-service-locks")
    """Where workers on one host claim their GPU, or their part of the cores; replicas in containers must share it."""
    model_memory: ByteSize = Field(ByteSize(0), ge=0)
    """For the models of one worker, as in 6GB or 512MiB; 0 is 80 % of the device's memory, or of the host's."""
    torch_threads: int = Field(0, ge=0)
    """Threads of one CPU forward; 0: the cores that the container may use, divided among the host's workers."""
    calibrate_s: float = Field(2.0, ge=0, le=60)
    """How long the trial of a model with `max_cost: auto` may take at its load; 0: none, and fixed values."""
    prepare_threads: int = Field(2, ge=1)
    health_file: Path | None = None
    """What `python -m worker healthcheck` looks at; None: one in the temporary folder, by the worker's name."""
    lease_s: float = Field(30.0, ge=1)
    """A worker that shows no life for this long loses the messages it holds; they are redelivered."""
    heartbeat_s: float = Field(5.0, gt=0)
    grace_s: float = Field(30.0, gt=0)
    """On SIGTERM: how long the batch in flight may take."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Where Prometheus reads a worker; 0: any free port; None: nowhere."""
    task_events: bool = True
    """Celery's events of each job, which Flower's list of tasks is made of."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"
    access_log: bool = False
    """One line (event `request`) for each request."""

    @property
    def own_models(self) -> list[str]:
        """Of ML_MODELS; empty: all."""
        return [name.strip() for name in self.models.split(",") if name.strip()]

    @property
    def most_file_bytes(self) -> int:
        """Of one uploaded file."""
        return self.max_file_bytes or (64_000_000 if self.payload_store == "redis" else 512_000_000)

    @property
    def most_files_bytes(self) -> int:
        """Of all files of one key."""
        return self.files_bytes or (256_000_000 if self.payload_store == "redis" else 10_000_000_000)

    def redis_address(self) -> Address:
        """Of `redis_url`, with the passwords of the files where it has none. Raises ConfigError."""
        address = parse(self.redis_url)
        address = replace(address, login=_with_password(address.login, self.redis_password_file, _SERVERS))
        if not address.master:
            return address
        own = _with_password(address.sentinel_login, self.sentinel_password_file, _SENTINELS)
        return replace(address, sentinel_login=own)

    def health_path(self) -> Path:
        """The file that tells `python -m worker healthcheck` that the worker lives (shared/health.py)."""
        named = self.worker_name if "worker_name" in self.model_fields_set else ""
        return self.health_file or health.default_path(named)

    def outbound_rules(self) -> Rules:
        """Which addresses may be called because a caller names them."""
        return Rules.parse(self.outbound_allow, https_only=self.outbound_https_only)

    def webhook_delays(self) -> list[float]:
        """Of `webhook_schedule`, seconds."""
        return [float(part) for part in self.webhook_schedule.split(",") if part.strip()]

    @field_validator("webhook_schedule")
    @classmethod
    def _delays(cls, schedule: str) -> str:
        for part in schedule.split(","):
            if part.strip() and not (part.strip().replace(".", "", 1).isdecimal() and float(part) <= _MOST_DELAY_S):
                raise ValueError(f"must be seconds, up to {_MOST_DELAY_S}, as in 5,30,120")
        return schedule

    @field_validator("outbound_allow")
    @classmethod
    def _addresses(cls, allow: str) -> str:
        Rules.parse(allow)  # raises ConfigError
        return allow

    @field_validator("payload_store")
    @classmethod
    def _a_store(cls, where: str) -> str:
        Place.parse(where)  # raises ConfigError
        return where

    @field_validator("redis_url")
    @classmethod
    def _readable(cls, url: str) -> str:
        parse(url)  # its ConfigError is the answer: a ValidationError would quote the URL, and with it the password
        return url

    @field_validator("redis_password_file", "sentinel_password_file", mode="before")
    @classmethod
    def _none_if_empty(cls, path: Path | str | None) -> Path | str | None:
        return path or None

    @field_validator("redis_password_file", "sentinel_password_file")
    @classmethod
    def _holds_one(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            read_password(path, f"ML_{str(info.field_name).upper()}")
        return path

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError("ML_HEARTBEAT_S must be at most half of ML_LEASE_S")
        return self


def _with_password(login: dict[str, str], file: Path | None, variable: str) -> dict[str, str]:
    if file is None or login.get("password"):
        return login
    return {**login, "password": read_password(file, variable)}


def load_settings() -> Settings:
    """From the environment. Raises ConfigError that names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"ML_{'_'.join(str(p) for p in fault['loc']).upper()}: {fault['msg']}" if fault["loc"] else fault["msg"]
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError("; ".join(lines)) from None
