"""The one tree of errors. A class's docstring is its default message, `code` is what clients read.

HTTP statuses are not known here: `api/errors.py` maps codes to them in one table.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel


class Fault(BaseModel):
    """One thing wrong in an input: where (a JSON pointer, RFC 6901), what kind, in words."""

    pointer: str = ""
    code: str = "invalid_input"
    message: str


class ServiceError(Exception):
    """Something went wrong inside the service."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None, *, faults: list[Fault] | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.faults = faults or []
        super().__init__(self.message)


class ConfigError(ServiceError):
    """The configuration is wrong."""

    code = "config_error"


# How a job ends when it does not succeed ---------------------------------------------------------


class JobError(ServiceError):
    """The job failed."""

    code = "predict_error"


class InvalidInput(JobError):
    """The input does not fit the model's schema."""

    code = "invalid_input"


class PredictError(JobError):
    """The model raised an error on this input."""

    code = "predict_error"


class OutOfMemory(JobError):
    """The device has not enough memory for this input alone."""

    code = "out_of_memory"


class JobTimeout(JobError):
    """The prediction took longer than the model's timeout."""

    code = "timeout"


class DeadlineExceeded(JobError):
    """The deadline passed before the job ended."""

    code = "deadline_exceeded"


class ModelUnavailable(JobError):
    """No worker serves this model."""

    code = "model_unavailable"


class AttemptsExhausted(JobError):
    """The worker process died each time it ran this job alone."""

    code = "attempts_exhausted"


class HandlerContract(JobError):
    """The handler returned something else than one output for each input."""

    code = "handler_contract"


class ProviderError(JobError):
    """The managed provider refused the call, or failed it more often than it was to be tried."""

    code = "provider_error"


class Canceled(JobError):
    """The job was canceled."""

    code = "canceled"


# How a call is refused -----------------------------------------------------------------------------


class UnknownModel(ServiceError):
    """No such model."""

    code = "model_not_found"


class UnknownJob(ServiceError):
    """No such job: it never existed, or it has expired."""

    code = "job_not_found"


class NotEnded(ServiceError):
    """The job has no output yet."""

    code = "not_ended"


class NotAcceptable(ServiceError):
    """This output is not an array of numbers: ask for application/json."""

    code = "not_acceptable"


class UnknownBatch(ServiceError):
    """No such batch: it never existed, or it has expired."""

    code = "batch_not_found"


class BadRequest(ServiceError):
    """The request cannot be read."""

    code = "bad_request"


class UnsupportedMedia(ServiceError):
    """This content type is not supported here."""

    code = "unsupported_media_type"


class TooLarge(ServiceError):
    """The request body is larger than this model or service accepts."""

    code = "payload_too_large"


class RequestTimeout(ServiceError):
    """The request did not come in time."""

    code = "request_timeout"


class UriTooLong(ServiceError):
    """The path and query are longer than this service accepts."""

    code = "uri_too_long"


class HeadersTooLarge(ServiceError):
    """The request has more header fields, or more bytes of them, than this service accepts."""

    code = "headers_too_large"


class IdempotencyMismatch(ServiceError):
    """This Idempotency-Key was used before with another payload."""

    code = "idempotency_mismatch"


class WaitEnded(ServiceError):
    """The job has not ended within the wait; poll its URL."""

    code = "wait_ended"

    def __init__(self, job_id: str, message: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class QueueFull(ServiceError):
    """The model's queue is full."""

    code = "queue_full"

    def __init__(self, message: str | None = None, *, retry_after_s: int = 1, limit: int = 0) -> None:
        super().__init__(message)
        self.retry_after_s, self.limit = retry_after_s, limit


class DeadlineImpossible(ServiceError):
    """The queue is too long for this deadline; nothing was accepted."""

    code = "deadline_exceeded"

    def __init__(self, message: str | None = None, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthorized(ServiceError):
    """An API key is needed: send it as Authorization: Bearer KEY, or as X-API-Key."""

    code = "unauthorized"


class Forbidden(ServiceError):
    """This caller may not do this."""

    code = "forbidden"


class RateLimited(ServiceError):
    """This caller asks for more than it may. `policies` are the limits that it is over, `headers` tell of all."""

    code = "rate_limited"

    def __init__(
        self, message: str | None = None, *, policies: list[str], retry_after_s: int = 1, headers: dict[str, str]
    ) -> None:
        super().__init__(message)
        self.policies, self.retry_after_s, self.headers = policies, retry_after_s, headers


class UnknownKey(ServiceError):
    """No such API key."""

    code = "key_not_found"


class UnknownWorker(ServiceError):
    """No living worker has this name."""

    code = "worker_not_found"


class UnknownLetter(ServiceError):
    """No such dead letter: it never existed, was retried or dropped, or was too old."""

    code = "letter_not_found"


class CannotRetry(ServiceError):
    """This dead letter cannot be retried."""

    code = "cannot_retry"


class CannotRedeliver(ServiceError):
    """There is nothing to deliver again."""

    code = "cannot_redeliver"


class VersionExists(ServiceError):
    """There is a version of that name with other contents."""

    code = "version_exists"


class VersionInUse(ServiceError):
    """This version cannot go: it has traffic, or an alias."""

    code = "version_in_use"


class NothingToRollBack(ServiceError):
    """This model has not been changed."""

    code = "nothing_to_roll_back"


class RegistryChanged(ServiceError):
    """Somebody else has changed the models since you have read them."""

    code = "precondition_failed"


class AddressRefused(ServiceError):
    """This address is not called."""

    code = "address_refused"


class CallFailed(ServiceError):
    """The call to this address failed."""

    code = "call_failed"


class UnknownFile(ServiceError):
    """No such file: it never existed, was deleted, or has expired."""

    code = "file_not_found"


class FilesFull(ServiceError):
    """This caller has uploaded as much as it may have at a time."""

    code = "files_full"


class RecordUnreadable(ServiceError):
    """What Redis holds of this job is not what this service writes."""

    code = "record_unreadable"


class StoreUnavailable(ServiceError):
    """Redis does not answer or takes no writes; nothing was accepted."""

    code = "store_unavailable"


class PayloadsUnavailable(StoreUnavailable):
    """The payload store does not answer or takes no writes; nothing was accepted."""

    code = "payloads_unavailable"


class StoreTooOld(ServiceError):
    """Redis 7.0 or newer, or Valkey, is needed."""

    code = "store_too_old"
