"""Webhooks: what a caller asks for, and what its record says of it. Delivered by api/deliver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from shared.addresses import Rules, check_url
from shared.errors import AddressRefused, Fault

JobEvent = Literal["running", "succeeded", "failed", "canceled"]
BatchEvent = Literal["completed", "canceled"]
Kind = Literal["job", "batch"]
EVENTS: dict[Kind, tuple[str, ...]] = {
    "job": ("running", "succeeded", "failed", "canceled"),
    "batch": ("completed", "canceled"),
}


class _Webhook(BaseModel):
    """A URL alone stands for one with the default events."""

    model_config = ConfigDict(extra="forbid")

    url: str
    events: list[Any]
    _pointer: str = PrivateAttr("/webhook/url")

    @model_validator(mode="wrap")
    @classmethod
    def _plain(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        if not isinstance(value, str):
            if not isinstance(value, dict | cls):
                raise ValueError("must be a URL, or an object with a url and perhaps events")
            return handler(value)
        made = handler({"url": value})
        made._pointer = "/webhook"
        return made

    def record(self, rules: Rules) -> str:
        """The record's field `webhook`, which prelude_webhooks.lua reads. Raises AddressRefused that points into the
        request."""
        try:
            target = check_url(self.url, rules)
        except AddressRefused as error:
            fault = Fault(pointer=self._pointer, code=error.code, message=error.message)
            raise AddressRefused(f"the webhook's URL is refused: {error.message}", faults=[fault]) from None
        events = list(dict.fromkeys(self.events))
        return orjson.dumps({"url": self.url, "host": target.authority, "events": events}).decode()


class JobWebhook(_Webhook):
    """Where a job's events go."""

    events: list[JobEvent] = Field(["succeeded", "failed", "canceled"], min_length=1)


class BatchWebhook(_Webhook):
    """Where a batch's events go."""

    events: list[BatchEvent] = Field(["completed", "canceled"], min_length=1)


def webhook_schema(kind: Kind) -> dict[str, Any]:
    """As JSON schema, in one piece."""
    default = [event for event in EVENTS[kind] if event != "running"]
    events = {"type": "array", "items": {"type": "string", "enum": list(EVENTS[kind])}, "minItems": 1}
    url = {"type": "string", "format": "uri", "maxLength": 2048}
    whole = {
        "type": "object",
        "properties": {"url": url, "events": events | {"default": default}},
        "required": ["url"],
        "additionalProperties": False,
    }
    return {"anyOf": [url, whole, {"type": "null"}], "default": None}


def delivery_id(of: str, event: str) -> str:
    """`webhook-id` of an event of the job or batch `of`, as the scripts make it: the same in every attempt."""
    return f"msg_{of}_{event}"
