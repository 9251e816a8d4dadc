"""What a backend installs to talk to ml-service; `ml_service_client.cli` is its command line."""

from importlib.metadata import version

__version__ = version("ml-service-client")

from ml_service_client import problems
from ml_service_client.aio import MLServiceClient
from ml_service_client.arrays import Array
from ml_service_client.errors import Fault, JobError, MLServiceError, Refused, UnexpectedAnswer, WebhookError
from ml_service_client.problems import *  # noqa: F403 - one class for each code; `__all__` has them
from ml_service_client.problems import PROBLEMS
from ml_service_client.records import Batch, Counts, Delivery, File, Line, Model, WebhookSecret
from ml_service_client.sync import SyncMLServiceClient
from ml_service_client.types import Answer, Event, Failure, Job, Timing
from ml_service_client.webhooks import WebhookEvent, verify_webhook

__all__ = [
    "PROBLEMS",
    "Answer",
    "Array",
    "Batch",
    "Counts",
    "Delivery",
    "Event",
    "Failure",
    "Fault",
    "File",
    "Job",
    "JobError",
    "Line",
    "MLServiceClient",
    "MLServiceError",
    "Model",
    "Refused",
    "SyncMLServiceClient",
    "Timing",
    "UnexpectedAnswer",
    "WebhookError",
    "WebhookEvent",
    "WebhookSecret",
    "verify_webhook",
]
__all__ += problems.__all__
