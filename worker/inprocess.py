"""Items through one handler, in this thread, without a queue: warm-up, `check`, and a user's own tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.errors import HandlerContract
from shared.tasks import Split, Task, parse_item
from worker.contract import honest, wrong_count
from worker.handler import Answered, Handler, ItemError, Prepared, with_notes


def as_item(task: Task, value: Any) -> Any:
    """`value` as the task's item: an instance as it is, plain data validated. Raises InvalidInput."""
    return value if isinstance(value, BaseModel) else parse_item(task, Split([value], "one"), 0)


def run_items(handler: Handler[Any, Any], items: Sequence[Any], parameters: Any) -> list[Any]:
    """The answers of `items` (as `handler.io.item`), an ItemError where one failed. Chunks of one group go through
    `predict` as one batch. Raises what `predict` raises, and HandlerContract for a wrong number of outputs."""
    answers: list[Any] = [None] * len(items)
    chunks: list[list[Prepared]] = [[] for _ in items]
    for index, item in enumerate(items):
        try:
            prepared = handler.prepare(item, parameters)
            chunks[index] = [prepared] if isinstance(prepared, Prepared) else list(prepared)
        except ItemError as error:
            answers[index] = error
    outputs = _predict(handler, [chunk for group in chunks for chunk in group])
    for index, item in enumerate(items):
        if answers[index] is None:
            own = [outputs.pop(0) for _ in chunks[index]]
            answers[index] = _finish(handler, own, chunks[index], item, parameters)
    return answers


def _predict(handler: Handler[Any, Any], chunks: list[Prepared]) -> list[Any]:
    groups: dict[Any, list[int]] = {}
    for place, chunk in enumerate(chunks):
        groups.setdefault(chunk.group, []).append(place)
    outputs: list[Any] = [None] * len(chunks)
    for places in groups.values():
        got = handler.predict([chunks[place].item for place in places])
        if wrong := wrong_count(got, len(places)):
            raise HandlerContract(wrong)
        for place, output in zip(places, map(honest, got), strict=True):
            outputs[place] = output.output if isinstance(output, Answered) else output
    return outputs


def _finish(handler: Handler[Any, Any], own: list[Any], chunks: list[Prepared], item: Any, parameters: Any) -> Any:
    failed = next((output for output in own if isinstance(output, ItemError)), None)
    if failed is not None:
        return failed
    try:
        answer = handler.finish(own, item, parameters)
    except ItemError as error:
        return error
    notes = {key: value for chunk in chunks for key, value in (chunk.notes or {}).items()}
    return with_notes(answer, notes)


def plain(output: Any) -> Any:
    """An output as JSON data, the way a client reads it. Raises HandlerContract for what JSON cannot carry."""
    try:
        return orjson.loads(orjson.dumps(output, default=_dump, option=orjson.OPT_SERIALIZE_NUMPY))
    except TypeError as error:
        raise HandlerContract(f"the handler's output is not JSON data: {error}") from None


def _dump(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    raise TypeError(f"{type(value).__name__} is not JSON data")


def warm_up(handler: Handler[Any, Any]) -> list[Any]:
    """Run each example and warm-up input alone, then all as one batch; the examples' outputs as JSON data. Raises
    HandlerContract when an example fails or its output is not what the handler declares."""
    task = handler.io
    parameters = task.parameters.model_validate(handler.example_parameters)
    items = warm_items(handler)
    if not items:
        return []
    outputs = [_checked(task, run_items(handler, [item], parameters)[0]) for item in items]
    if len(items) > 1:
        for output in run_items(handler, items, parameters):
            _checked(task, output)
    return outputs[: len(handler.example)]


def warm_items(handler: Handler[Any, Any]) -> list[Any]:
    """The examples, then the warm-up inputs, as the task's items."""
    return [as_item(handler.io, value) for value in (*handler.example, *handler.warm())]


def _checked(task: Task, output: Any) -> Any:
    if isinstance(output, ItemError):
        raise HandlerContract(f"an example fails: {output.message}")
    data = plain(output)
    try:
        TypeAdapter(task.output).validate_python(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise HandlerContract(
            f"the example's output is not what the handler declares: {where} {fault['msg']}"
        ) from None
    return data
