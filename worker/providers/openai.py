"""OpenAI, or whoever speaks its API: chat and embeddings, by OpenAI's own SDK.

https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.chat import ChatAnswer
from shared.errors import ConfigError
from shared.tasks import CHAT, TEXT_EMBEDDING, Embedding
from worker.handler import Answered, Context, ItemError, Prepared
from worker.providers.faults import PROVIDER_ERROR, broken, refused, unreachable
from worker.providers.provider import CONNECT_S, Ask, ProviderHandler, shares

_FINAL = frozenset(("insufficient_quota", "billing_hard_limit_reached", "account_deactivated"))


class _OpenAI(ProviderHandler):
    def load(self, ctx: Context) -> None:
        """Raises ConfigError where the key is not in the environment."""
        super().load(ctx)
        try:
            import httpx2 as transport  # openai 3
        except ImportError:
            import httpx as transport  # type: ignore[no-redef]
        from openai import APIError, OpenAI

        name = self.options.api_key_env
        key = os.environ.get(name, "")
        if not key:
            raise ConfigError(f"{self.who} needs its API key in the environment: {name} is not set")
        timeout: Any = transport.Timeout(self.timeout_s, connect=CONNECT_S)
        self._lost: tuple[type[Exception], ...] = (transport.HTTPError, transport.StreamError, APIError)
        self.client = OpenAI(api_key=key, base_url=self.options.base_url, timeout=timeout, max_retries=0)

    def unload(self) -> None:
        """Closes the connections."""
        super().unload()
        self.client.close()

    @contextmanager
    def _understood(self) -> Iterator[None]:
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        try:
            yield
        except APITimeoutError as error:
            raise unreachable(self.who, error, timeout=True) from None
        except APIConnectionError as error:
            raise unreachable(self.who, error, timeout=False) from None
        except APIStatusError as error:
            raise refused(
                self.who, error.status_code, _words(error), error.response.headers, final=error.code in _FINAL
            ) from None
        except APIError as error:  # an answer that is none
            raise ItemError(f"{self.who}: {_words(error)}", code=PROVIDER_ERROR) from None
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise broken(self.who, f"gave what is no answer: {type(error).__name__}") from None


def _words(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or body.get("detail") or error.message)[:1000]


class OpenAIEmbedding(_OpenAI):
    """`text-embedding` by `/v1/embeddings`, as many texts a call as a batch has."""

    io = TEXT_EMBEDDING

    def prepare(self, item: Any, parameters: Any) -> Prepared:
        """Texts and token ids go in calls of their own. Raises ItemError for what the provider cannot do."""
        if parameters.truncate:
            raise ItemError(f"{self.who} cuts no text", pointer="/parameters/truncate")
        dimensions = parameters.dimensions or self.options.dimensions
        ids = not isinstance(item.text, str)
        asked = Ask(item.text, {"dimensions": dimensions} if dimensions else {})
        return Prepared(asked, group=(dimensions, ids))

    def predict(self, batch: list[Ask]) -> list[Any]:
        """One call. Raises TryLater, ItemError."""
        texts, dimensions = [ask.item for ask in batch], batch[0].parameters.get("dimensions")
        self.enter(texts)
        more: dict[str, Any] = {"dimensions": dimensions} if dimensions else {}
        with self._understood():
            answer = self.client.embeddings.create(model=self.name, input=texts, **more)
        rows = [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
        if len(rows) != len(batch):
            raise broken(self.who, f"gave {len(rows)} embeddings for {len(batch)} texts")
        if dimensions and any(len(row) != dimensions for row in rows):
            raise broken(self.who, f"gave embeddings of {len(rows[0])} numbers where {dimensions} were asked for")
        read = answer.usage.prompt_tokens if answer.usage else 0
        parts = shares(read, [len(text) for text in texts])
        return [Answered(row, read=part, cost=self.cost(part, 0)) for row, part in zip(rows, parts, strict=True)]

    def finish(self, outputs: list[Any], item: Any, parameters: Any) -> Embedding:
        """Of unit length where that is asked for: not every server's are."""
        row = outputs[0]
        if parameters.normalize:
            length = math.sqrt(math.fsum(x * x for x in row)) or 1.0
            row = [x / length for x in row]
        return Embedding(embedding=row)


class OpenAIChat(_OpenAI):
    """`chat` by `/v1/chat/completions`, one conversation a call."""

    io = CHAT
    max_size = 1

    def prepare(self, item: Any, parameters: Any) -> Prepared:
        """All of it goes to the provider as it came."""
        given = parameters.model_dump(mode="json", exclude_none=True)
        return Prepared(Ask([one.model_dump(mode="json", exclude_unset=True) for one in item.messages], given))

    def predict(self, batch: list[Ask]) -> list[Any]:
        """One call. Raises TryLater, ItemError."""
        (ask,) = batch
        more = dict(ask.parameters)
        stream = more.pop("stream")
        self.enter(ask.item, more.get("max_completion_tokens") or more.get("max_tokens") or 0)
        with self._understood():
            answer = self._streamed(ask.item, more) if stream else self._whole(ask.item, more)
        read, written = (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else (0, 0)
        return [Answered(answer, read, written, self.cost(read, written))]

    def _whole(self, messages: Any, more: dict[str, Any]) -> ChatAnswer:
        answer = self.client.chat.completions.create(model=self.name, messages=messages, **more)
        if not answer.choices:
            raise broken(self.who, "gave no choice")
        choice = answer.choices[0]
        return self._made(_message(choice.message), choice.finish_reason, answer.usage)

    def _made(self, message: dict[str, Any], finish_reason: str | None, usage: Any) -> ChatAnswer:
        told = {"message": message, "finish_reason": finish_reason}
        if usage is not None:
            told["usage"] = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        made: ChatAnswer = self.checked(told)
        return made

    def _streamed(self, messages: Any, more: dict[str, Any]) -> ChatAnswer:
        """Nothing is tried again once a piece is out: it cannot be taken back."""
        from openai import APIStatusError

        growing = _Growing()
        try:
            with self.client.chat.completions.create(
                model=self.name, messages=messages, stream=True, stream_options={"include_usage": True}, **more
            ) as stream:
                for chunk in stream:
                    if text := growing.add(chunk):
                        self.say(0, text)
        except APIStatusError:
            raise  # there is no stream
        except self._lost as error:
            growing.lost = error
        if growing.finish_reason is None:
            if not growing.content:
                lost = growing.lost or EOFError()
                raise unreachable(self.who, lost, timeout="Timeout" in type(lost).__name__) from None
            told = f"{self.who} broke its stream off after {len(growing.content)} characters"
            raise ItemError(told, code=PROVIDER_ERROR) from None
        return self._made(growing.message(), growing.finish_reason, growing.usage)


class _Growing:
    """A message, as it comes in a stream."""

    def __init__(self) -> None:
        self.content = ""
        self.finish_reason: str | None = None
        self.usage: Any = None
        self.lost: Exception | None = None
        self._refusal = ""
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Any) -> str:
        """What it adds to the content."""
        self.usage = chunk.usage or self.usage
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        text = choice.delta.content or ""
        self.content += text
        self._refusal += choice.delta.refusal or ""
        for part in choice.delta.tool_calls or ():
            self._call(part)
        return text

    def _call(self, part: Any) -> None:
        call = self._calls.setdefault(
            part.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.id or call["id"]
        if part.function is not None:
            call["function"]["name"] += part.function.name or ""
            call["function"]["arguments"] += part.function.arguments or ""

    def message(self) -> dict[str, Any]:
        """As it would have come whole."""
        made: dict[str, Any] = {"role": "assistant", "content": self.content or None}
        if self._calls:
            made["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        if self._refusal:
            made["refusal"] = self._refusal
        if not self._calls and not self._refusal:
            made["content"] = self.content
        return made


def _message(message: Any) -> dict[str, Any]:
    made: dict[str, Any] = message.model_dump(mode="json", exclude_none=True)
    return {"content": None, **made}
