"""The task `chat`: the messages of a conversation, and the next one. As OpenAI writes them, so that nothing is lost on
the way to who does: https://platform.openai.com/docs/api-reference/chat"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.task import Strict, Task

MAX_MESSAGES = 2048


class ChatMessage(BaseModel):
    """One message. What else belongs to it (`name`, `tool_calls`, `tool_call_id`) is handed on as it is."""

    model_config = ConfigDict(extra="allow")

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatItem(Strict):
    """A conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


class ChatParameters(Strict):
    """As OpenAI means them. `stream`: the answer can be followed while it is written, where the model can write so."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = Field(None, max_length=32)
    stream: bool = False


class ChatUsage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatAnswer(BaseModel):
    """The next message. `finish_reason`: stop, length, tool_calls, content_filter, or what else the model says."""

    message: ChatMessage
    finish_reason: str | None = None
    usage: ChatUsage | None = None


CHAT = Task("chat", ChatItem, ChatAnswer, ChatParameters)
