"""The built-in tasks: what goes into and comes out of each.

What a task is, and how a job splits into items, stands in `shared/task.py`; the tasks that transformers' pipelines
serve in `shared/pipeline_tasks.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from shared.chat import CHAT
from shared.pipeline_tasks import IMAGE_CLASSIFICATION, PIPELINE_TASKS
from shared.task import (
    MAX_ITEMS,
    Blob,
    NoParameters,
    Split,
    Strict,
    Task,
    check,
    join,
    parse_item,
    parse_parameters,
    split,
)
from shared.task_models import ImageItem, Labels, ScoredLabel, TextItem
from shared.task_parameters import TopK

__all__ = [
    "BUILT_IN",
    "CHAT",
    "ECHO",
    "IMAGE_CLASSIFICATION",
    "JSON",
    "MAX_ITEMS",
    "PIPELINE_TASKS",
    "QUESTION_ANSWERING",
    "REMOTE_ONLY",
    "TEXT_EMBEDDING",
    "Answer",
    "Blob",
    "EchoParameters",
    "Embedding",
    "EmbeddingItem",
    "EmbeddingParameters",
    "ImageItem",
    "Labels",
    "NoParameters",
    "QuestionItem",
    "ScoredLabel",
    "Split",
    "Strict",
    "Task",
    "TextItem",
    "TopK",
    "check",
    "join",
    "parse_item",
    "parse_parameters",
    "split",
]


def _words(value: Any) -> str | list[int]:
    """By hand: of what fits neither, a union of pydantic's tells both ways, at places that are none in the input."""
    if isinstance(value, list):
        if not value or not all(type(one) is int and one >= 0 for one in value):
            raise PydanticCustomError("token_ids", "Token ids are integers from 0 on, at least one")
        return value
    text = _text.validate_python(value)
    return text


_text = TypeAdapter(Annotated[str, Field(min_length=1)])
Words = Annotated[
    str | list[int],
    PlainValidator(_words),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "examples": ["A queue keeps what it was given."]},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            ]
        }
    ),
]


class EmbeddingItem(Strict):
    """One text; or the token ids of one, by the model's own tokeniser and without its special tokens, where the version
    says `token_ids: true`."""

    text: Words


class Embedding(BaseModel):
    """A text's vector. `truncated` is there, and true, when the text was longer than the model reads."""

    embedding: list[float]
    truncated: bool | None = None


class EmbeddingParameters(Strict):
    """`normalize`: unit length (default: as the model's files say); `dimensions`: keep the first N (Matryoshka);
    `truncate`: false refuses a text over the model's limit, true cuts it (default: the model's `on_overlong`)."""

    normalize: bool | None = None
    dimensions: int | None = Field(None, ge=1)
    truncate: bool | None = None


class QuestionItem(Strict):
    """A question and the text that holds its answer."""

    question: str = Field(min_length=1)
    context: str = Field(min_length=1)


class Answer(BaseModel):
    """A span of the context: `context[start:end]`."""

    answer: str
    score: float
    start: int
    end: int


class EchoParameters(Strict):
    """`sleep_ms`: how long the batch takes (the longest of its items); `fail`: raise with this text."""

    sleep_ms: float = Field(0, ge=0, le=600_000)
    fail: str | None = None


class FreeParameters(BaseModel):
    """Whatever the endpoint takes."""

    model_config = ConfigDict(extra="allow")


TEXT_EMBEDDING = Task(
    "text-embedding", EmbeddingItem, Embedding, EmbeddingParameters, ("text", "texts"), ("embedding", "embeddings")
)
QUESTION_ANSWERING = Task("question-answering", QuestionItem, Answer)
ECHO = Task("echo", Any, Any, EchoParameters, whole=True)
JSON = Task("json", Any, Any, FreeParameters, whole=True)

REMOTE_ONLY = frozenset({CHAT.name, JSON.name})
"""Built-in tasks that only managed providers do (a local model that chats does `text-generation`)."""

BUILT_IN: dict[str, Task] = {
    **{task.name: task for task in (TEXT_EMBEDDING, QUESTION_ANSWERING, CHAT, JSON, ECHO)},
    **PIPELINE_TASKS,
}
