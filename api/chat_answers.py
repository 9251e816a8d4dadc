"""What `/v1/chat/completions` answers: a completion, or its chunks as Server-Sent Events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from api.chat import ChatRequest, Reply
from api.submission import Ticket

DONE = b"data: [DONE]\n\n"


class ReplyMessage(BaseModel):
    """The next message; what else a model says of it stands beside."""

    model_config = ConfigDict(extra="allow")

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: str


class CompletionUsage(BaseModel):
    """Tokens; 0 where the model counts none."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


@dataclass(frozen=True, slots=True)
class Words:
    """The answer to one request, in OpenAI's words."""

    asked: ChatRequest
    ticket: Ticket

    def completion(self, reply: Reply, read: int) -> bytes:
        """A whole answer. `read`: tokens of the prompt by the job, where the model has not told."""
        message = {"role": "assistant", "content": None, "refusal": None} | reply.message
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}
        body = self._head("chat.completion") | {"choices": [choice], "usage": _usage(reply, read)}
        return orjson.dumps(body)

    def begin(self) -> bytes:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def more(self, text: str) -> bytes:
        """A chunk of text; nothing for none."""
        return self._chunk({"content": text}) if text else b""

    def end(self, reply: Reply, read: int) -> bytes:
        """What a reply has beside its text, why it ended, the usage if it was asked for, and the end of the stream."""
        beside = {name: value for name, value in reply.message.items() if name not in ("role", "content")}
        if calls := beside.get("tool_calls"):
            beside["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
        events = self._chunk(beside) if beside else b""
        events += self._chunk({}, _finish_reason(reply))
        if self.asked.stream_options.include_usage:
            events += _event(self._head("chat.completion.chunk") | {"choices": [], "usage": _usage(reply, read)})
        return events + DONE

    def _head(self, kind: str) -> dict[str, Any]:
        created = self.ticket.created_at // 1000 or int(time.time())
        return {"id": f"chatcmpl-{self.ticket.job_id}", "object": kind, "created": created, "model": self.asked.model}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.asked.stream_options.include_usage else {}
        return _event(self._head("chat.completion.chunk") | {"choices": [choice]} | usage)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _finish_reason(reply: Reply) -> str:
    """A model that does not tell has come to its end."""
    return reply.finish_reason or ("tool_calls" if reply.message.get("tool_calls") else "stop")


def _usage(reply: Reply, read: int) -> dict[str, int]:
    asked, said = reply.prompt_tokens or read, reply.completion_tokens or 0
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
