"""One exception for each `code` of the service. Made by scripts/client_problems.py: do not edit."""

from __future__ import annotations

from typing import Final

from ml_service_client.errors import JobError, MLServiceError, Refused

__all__ = [
    "AddressRefused",
    "AttemptsExhausted",
    "BadRequest",
    "CallFailed",
    "Canceled",
    "CannotRedeliver",
    "CannotRetry",
    "DeadlineExceeded",
    "FilesFull",
    "Forbidden",
    "HandlerContract",
    "HeadersTooLarge",
    "IdempotencyMismatch",
    "InternalError",
    "InvalidInput",
    "JobTimeout",
    "MethodNotAllowed",
    "ModelUnavailable",
    "NotAcceptable",
    "NotEnded",
    "NotFound",
    "NothingToRollBack",
    "OutOfMemory",
    "PayloadsUnavailable",
    "PredictError",
    "ProviderError",
    "QueueFull",
    "RateLimited",
    "RecordUnreadable",
    "RegistryChanged",
    "RequestTimeout",
    "StoreTooOld",
    "StoreUnavailable",
    "TooLarge",
    "Unauthorized",
    "UnknownBatch",
    "UnknownFile",
    "UnknownJob",
    "UnknownKey",
    "UnknownLetter",
    "UnknownModel",
    "UnknownWorker",
    "UnsupportedMedia",
    "UriTooLong",
    "VersionExists",
    "VersionInUse",
    "WaitEnded",
]


class InvalidInput(JobError):
    """The input does not fit the model's schema."""

    code = "invalid_input"
    default_status = 422


class PredictError(JobError):
    """The model raised an error on this input."""

    code = "predict_error"
    default_status = 500


class HandlerContract(JobError):
    """The handler returned something else than one output for each input."""

    code = "handler_contract"
    default_status = 500


class AttemptsExhausted(JobError):
    """The worker process died each time it ran this job alone."""

    code = "attempts_exhausted"
    default_status = 500


class OutOfMemory(JobError):
    """The device has not enough memory for this input alone."""

    code = "out_of_memory"
    default_status = 507


class JobTimeout(JobError, TimeoutError):
    """The prediction took longer than the model's timeout."""

    code = "timeout"
    default_status = 504


class DeadlineExceeded(JobError, TimeoutError):
    """The deadline passed before the job ended."""

    code = "deadline_exceeded"
    default_status = 504


class ModelUnavailable(JobError):
    """No worker serves this model."""

    code = "model_unavailable"
    default_status = 503


class Canceled(JobError):
    """The job was canceled."""

    code = "canceled"
    default_status = 409


class ProviderError(JobError):
    """The managed provider refused the call, or failed it more often than it was to be tried."""

    code = "provider_error"
    default_status = 502


class BadRequest(Refused):
    """The request cannot be read."""

    code = "bad_request"
    default_status = 400


class NotFound(Refused):
    """No such path."""

    code = "not_found"
    default_status = 404


class UnknownModel(Refused):
    """No such model."""

    code = "model_not_found"
    default_status = 404


class UnknownJob(Refused):
    """No such job: it never existed, or it has expired."""

    code = "job_not_found"
    default_status = 404


class NotEnded(Refused):
    """The job has no output yet."""

    code = "not_ended"
    default_status = 409


class NotAcceptable(Refused):
    """This output is not an array of numbers: ask for application/json."""

    code = "not_acceptable"
    default_status = 406


class UnknownBatch(Refused):
    """No such batch: it never existed, or it has expired."""

    code = "batch_not_found"
    default_status = 404


class UnknownLetter(Refused):
    """No such dead letter: it never existed, was retried or dropped, or was too old."""

    code = "letter_not_found"
    default_status = 404


class UnknownWorker(Refused):
    """No living worker has this name."""

    code = "worker_not_found"
    default_status = 404


class Unauthorized(Refused):
    """An API key is needed: send it as Authorization: Bearer KEY, or as X-API-Key."""

    code = "unauthorized"
    default_status = 401


class Forbidden(Refused):
    """This caller may not do this."""

    code = "forbidden"
    default_status = 403


class UnknownKey(Refused):
    """No such API key."""

    code = "key_not_found"
    default_status = 404


class RateLimited(Refused):
    """This caller asks for more than it may. `policies` are the limits that it is over, `headers` tell of all."""

    code = "rate_limited"
    default_status = 429


class CannotRetry(Refused):
    """This dead letter cannot be retried."""

    code = "cannot_retry"
    default_status = 409


class CannotRedeliver(Refused):
    """There is nothing to deliver again."""

    code = "cannot_redeliver"
    default_status = 409


class VersionExists(Refused):
    """There is a version of that name with other contents."""

    code = "version_exists"
    default_status = 409


class VersionInUse(Refused):
    """This version cannot go: it has traffic, or an alias."""

    code = "version_in_use"
    default_status = 409


class NothingToRollBack(Refused):
    """This model has not been changed."""

    code = "nothing_to_roll_back"
    default_status = 409


class RegistryChanged(Refused):
    """Somebody else has changed the models since you have read them."""

    code = "precondition_failed"
    default_status = 412


class MethodNotAllowed(Refused):
    """This path does not know this method."""

    code = "method_not_allowed"
    default_status = 405


class RequestTimeout(Refused):
    """The request did not come in time."""

    code = "request_timeout"
    default_status = 408


class TooLarge(Refused):
    """The request body is larger than this model or service accepts."""

    code = "payload_too_large"
    default_status = 413


class UriTooLong(Refused):
    """The path and query are longer than this service accepts."""

    code = "uri_too_long"
    default_status = 414


class UnsupportedMedia(Refused):
    """This content type is not supported here."""

    code = "unsupported_media_type"
    default_status = 415


class IdempotencyMismatch(Refused):
    """This Idempotency-Key was used before with another payload."""

    code = "idempotency_mismatch"
    default_status = 422


class HeadersTooLarge(Refused):
    """The request has more header fields, or more bytes of them, than this service accepts."""

    code = "headers_too_large"
    default_status = 431


class AddressRefused(Refused):
    """This address is not called."""

    code = "address_refused"
    default_status = 422


class CallFailed(Refused):
    """The call to this address failed."""

    code = "call_failed"
    default_status = 502


class UnknownFile(Refused):
    """No such file: it never existed, was deleted, or has expired."""

    code = "file_not_found"
    default_status = 404


class FilesFull(Refused):
    """This caller has uploaded as much as it may have at a time."""

    code = "files_full"
    default_status = 409


class PayloadsUnavailable(Refused):
    """The payload store does not answer or takes no writes; nothing was accepted."""

    code = "payloads_unavailable"
    default_status = 503


class QueueFull(Refused):
    """The model's queue is full."""

    code = "queue_full"
    default_status = 503


class StoreUnavailable(Refused):
    """Redis does not answer or takes no writes; nothing was accepted."""

    code = "store_unavailable"
    default_status = 503


class StoreTooOld(Refused):
    """Redis 7.0 or newer, or Valkey, is needed."""

    code = "store_too_old"
    default_status = 503


class WaitEnded(Refused, TimeoutError):
    """The job has not ended within the wait; poll its URL."""

    code = "wait_ended"
    default_status = 504


class RecordUnreadable(Refused):
    """What Redis holds of this job is not what this service writes."""

    code = "record_unreadable"
    default_status = 500


class InternalError(Refused):
    """A fault of the service."""

    code = "internal_error"
    default_status = 500


PROBLEMS: Final[dict[str, type[MLServiceError]]] = {
    "invalid_input": InvalidInput,
    "predict_error": PredictError,
    "handler_contract": HandlerContract,
    "attempts_exhausted": AttemptsExhausted,
    "out_of_memory": OutOfMemory,
    "timeout": JobTimeout,
    "deadline_exceeded": DeadlineExceeded,
    "model_unavailable": ModelUnavailable,
    "canceled": Canceled,
    "provider_error": ProviderError,
    "bad_request": BadRequest,
    "not_found": NotFound,
    "model_not_found": UnknownModel,
    "job_not_found": UnknownJob,
    "not_ended": NotEnded,
    "not_acceptable": NotAcceptable,
    "batch_not_found": UnknownBatch,
    "letter_not_found": UnknownLetter,
    "worker_not_found": UnknownWorker,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "key_not_found": UnknownKey,
    "rate_limited": RateLimited,
    "cannot_retry": CannotRetry,
    "cannot_redeliver": CannotRedeliver,
    "version_exists": VersionExists,
    "version_in_use": VersionInUse,
    "nothing_to_roll_back": NothingToRollBack,
    "precondition_failed": RegistryChanged,
    "method_not_allowed": MethodNotAllowed,
    "request_timeout": RequestTimeout,
    "payload_too_large": TooLarge,
    "uri_too_long": UriTooLong,
    "unsupported_media_type": UnsupportedMedia,
    "idempotency_mismatch": IdempotencyMismatch,
    "headers_too_large": HeadersTooLarge,
    "address_refused": AddressRefused,
    "call_failed": CallFailed,
    "file_not_found": UnknownFile,
    "files_full": FilesFull,
    "payloads_unavailable": PayloadsUnavailable,
    "queue_full": QueueFull,
    "store_unavailable": StoreUnavailable,
    "store_too_old": StoreTooOld,
    "wait_ended": WaitEnded,
    "record_unreadable": RecordUnreadable,
    "internal_error": InternalError,
}
