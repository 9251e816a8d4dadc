"""A chat in OpenAI's words, and in those of the models that can hold one.

A model of the task `chat` and a handler of one's own read the messages and parameters as they come; one of
`text-generation` reads transformers' arguments, and what these cannot say is refused by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import ConfigDict, Field, ValidationError, model_validator

from api.inputs import InputCheck
from shared.chat import CHAT, MAX_MESSAGES, ChatAnswer, ChatMessage, ChatParameters
from shared.errors import Fault, InvalidInput
from shared.model_spec import ModelSpec
from shared.task import Strict

TEXT_GENERATION = "text-generation"


class StreamOptions(Strict):
    """`include_usage`: the last chunk tells the tokens."""

    include_usage: bool = False


class ChatRequest(ChatParameters):
    """A conversation, and how it is to go on. What is null was not given."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "gpt", "messages": [{"role": "user", "content": "Hello"}]}]}
    )

    model: str = Field(min_length=1)
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = Field(1, description="one answer")
    user: str | None = Field(None, max_length=256, description="is kept as the job's label `user`")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as they came."""
        return [message.model_dump(exclude_unset=True) for message in self.messages]

    def given(self) -> dict[str, Any]:
        """The parameters of the answer that were given, but for `stream`."""
        names = ChatParameters.model_fields.keys() - {"stream"}
        return self.model_dump(include=names, exclude_unset=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answers; what it has not told is None."""

    message: dict[str, Any]
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def content(self) -> str:
        """The words of it."""
        return self.message.get("content") or ""


class Chatter(Protocol):
    """How one kind of models is asked."""

    parameters: dict[str, Any]

    def input(self) -> Any:
        """Of the job. Raises InvalidInput, whose faults point into the request, as the constructor does."""

    def read(self, output: Any) -> Reply | None:
        """A job's output. None: it is no answer of a chat."""

    def place(self, fault: Fault) -> Fault:
        """A fault of the job's input or parameters as one of the request."""


def chatter(asked: ChatRequest, spec: ModelSpec, check: InputCheck) -> Chatter:
    """How this model is asked. Raises InvalidInput for one that does not chat, or cannot do what is asked."""
    if spec.task in (None, CHAT.name):
        return AsItCame(asked, can_stream=check.takes("stream"))
    if spec.task == TEXT_GENERATION:
        return Generator(asked)
    raise no_chat(asked.model)


def no_chat(model: str) -> InvalidInput:
    """For a model that does something else."""
    return InvalidInput(faults=[Fault(pointer="/model", message=f"{model!r} is no model that chats")])


class AsItCame:
    """The task `chat`, and handlers of one's own: `{"messages": [...]}`, and the parameters that were given."""

    def __init__(self, asked: ChatRequest, *, can_stream: bool) -> None:
        self._asked = asked
        self.parameters = asked.given() | ({"stream": True} if asked.stream and can_stream else {})

    def input(self) -> Any:
        """See Chatter."""
        return {"messages": self._asked.conversation()}

    def read(self, output: Any) -> Reply | None:
        """A ChatAnswer, or a text: alone, as `content` or as `text`."""
        if isinstance(output, str):
            output = {"content": output}
        if not isinstance(output, dict):
            return None
        if "message" not in output:
            output = {**output, "message": {"content": output.get("content", output.get("text"))}}
            if not isinstance(output["message"]["content"], str):
                return None
        if isinstance(output["message"], dict):
            output = {**output, "message": {"role": "assistant"} | output["message"]}
        try:
            answer = ChatAnswer.model_validate(output)
        except ValidationError:
            return None
        message, usage = _message(answer.message), answer.usage
        calls = message.get("tool_calls", [])
        if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
            return None
        told = (usage.prompt_tokens or None, usage.completion_tokens) if usage else (None, None)
        return Reply(message, answer.finish_reason, *told)

    def place(self, fault: Fault) -> Fault:
        """See Chatter."""
        return _moved(fault, {"/parameters": ""})


def _message(message: ChatMessage) -> dict[str, Any]:
    told = message.model_dump(exclude_none=True)
    if isinstance(message.content, list):  # parts, of which a reader of OpenAI's knows only the words
        told["content"] = "".join(str(part.get("text", "")) for part in message.content)
    return told


# What says nothing, so that a model that knows none of it does as asked.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}


class Generator:
    """transformers' pipeline `text-generation`, whose input may be a chat."""

    def __init__(self, asked: ChatRequest) -> None:
        self._asked = asked
        self.parameters: dict[str, Any] = {}
        self._places: dict[str, str] = {}  # of a parameter's pointer: the field that it was made of
        given = asked.given()
        self._bound(given)
        self._sample(given.pop("temperature", None), given.pop("top_p", None))
        stop = given.pop("stop", [])
        self._stops = [stop] if isinstance(stop, str) else stop
        if self._stops:
            self._set("stop_sequence", self._stops, "stop")
        if asked.messages[-1].role == "assistant":  # which the pipeline would go on with
            self.parameters["continue_final_message"] = False
        for name, value in given.items():
            if value not in _NOTHING.get(name, ()):
                raise _refused(name, f"{asked.model!r} cannot do this")

    def _bound(self, given: dict[str, Any]) -> None:
        names: list[str] = [name for name in ("max_completion_tokens", "max_tokens") if name in given]
        if len(names) > 1:
            raise _refused("max_tokens", "give max_completion_tokens alone")
        for name in names:
            self._set("max_new_tokens", given.pop(name), name)

    def _sample(self, temperature: float | None, top_p: float | None) -> None:
        if temperature == 0:
            self._set("do_sample", False, "temperature")
            return
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if value is not None:
                self._set("do_sample", True, name)
                self._set(name, value, name)

    def _set(self, name: str, value: Any, origin: str) -> None:
        self.parameters[name] = value
        self._places[f"/parameters/{name}"] = f"/{origin}"

    def input(self) -> Any:
        """See Chatter."""
        return {"text": [self._text_message(number) for number in range(len(self._asked.messages))]}

    def _text_message(self, number: int) -> dict[str, str]:
        message = self._asked.messages[number]
        if message.model_extra:
            name = next(iter(message.model_extra))
            raise _refused(f"messages/{number}/{name}", f"{self._asked.model!r} reads role and content alone")
        content, parts = message.content, message.content if isinstance(message.content, list) else []
        if parts and all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
            content = "".join(part["text"] for part in parts)
        if not isinstance(content, str):
            raise _refused(f"messages/{number}/content", f"{self._asked.model!r} reads text alone")
        return {"role": "system" if message.role == "developer" else message.role, "content": content}

    def read(self, output: Any) -> Reply | None:
        """The last message of `generated_text`."""
        try:
            message, told = output[0]["generated_text"][-1], output[0]
            content = message["content"]
        except (LookupError, TypeError):
            return None
        if not isinstance(content, str):
            return None
        message = {**message, "role": "assistant", "content": self._until_stop(content)}
        return Reply(message, told.get("finish_reason"), completion_tokens=told.get("tokens"))

    def _until_stop(self, text: str) -> str:
        """The pipeline ends with what it was to stop at."""
        return text[: min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))]

    def place(self, fault: Fault) -> Fault:
        """See Chatter."""
        return _moved(fault, {**self._places, "/parameters": "", "/text": "/messages"})


def _refused(name: str, message: str) -> InvalidInput:
    return InvalidInput(faults=[Fault(pointer=f"/{name}", message=message)])


def _moved(fault: Fault, places: dict[str, str]) -> Fault:
    """By the first of `places` that it lies in."""
    for ours, theirs in places.items():
        if fault.pointer == ours or fault.pointer.startswith(f"{ours}/"):
            return Fault(pointer=theirs + fault.pointer.removeprefix(ours), code=fault.code, message=fault.message)
    return fault
