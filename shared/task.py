"""What a task is: the models of its input, output and parameters, and how one job's input splits into items.

The API validates with these models before it accepts a job (and shows them in OpenAPI); the worker validates again,
for jobs that came from plain Celery. An item is what a handler sees; a job carries one item or a list of them:

    {"text": "a"}            one item     -> one output
    {"texts": ["a", "b"]}    two items    -> {"embeddings": [...]} (the task's plural) or {"items": [...]}
    [{"text": "a"}, ...]     two items    -> [output, ...]
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema

from shared.errors import Fault, InvalidInput

MAX_ITEMS = 2048  # of one job
MAX_FAULTS = 100  # that are told of one job


def _decode_base64(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not valid base64") from error


Blob = Annotated[
    bytes,
    BeforeValidator(_decode_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "Base64, or a data: URL"}),
]
"""Bytes of a file. In JSON base64; raw when they came as a raw body, as multipart, or through the payload store."""


class Strict(BaseModel):
    """A model that names every field it does not know."""

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64")


class NoParameters(Strict):
    """The task takes no parameters."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task's contract. `many` is its singular and plural input field, `plural_output` likewise for the output
    (without it the outputs are joined as `{"items": [...]}`); `whole` inputs are never split."""

    name: str
    item: Any
    output: Any
    parameters: type[BaseModel] = NoParameters
    many: tuple[str, str] | None = None
    plural_output: tuple[str, str] | None = None
    whole: bool = False

    def input_schema(self) -> dict[str, Any]:
        """JSON schema of a job's input: one item, the plural form, or a list of items. Self-contained (`$defs`)."""
        one = TypeAdapter(self.item).json_schema()
        if self.whole:
            return one
        forms = [one, {"type": "array", "items": dict(one), "minItems": 1, "maxItems": MAX_ITEMS}]
        defs = one.pop("$defs", {})
        forms[1]["items"].pop("$defs", None)
        if self.many:
            singular, plural = self.many
            properties = dict(one["properties"])
            properties[plural] = {
                "type": "array",
                "items": properties.pop(singular),
                "minItems": 1,
                "maxItems": MAX_ITEMS,
            }
            required = [plural if name == singular else name for name in one.get("required", [])]
            forms.insert(1, {**one, "title": one["title"] + "Many", "properties": properties, "required": required})
        return {"anyOf": forms} | ({"$defs": defs} if defs else {})

    def output_schema(self) -> dict[str, Any]:
        """JSON schema of one item's output."""
        return TypeAdapter(self.output).json_schema()


@dataclass(frozen=True, slots=True)
class Split:
    """A job's input as raw items. `form` says how the outputs are joined; `pointer(i, path)` where a fault lies."""

    items: list[Any]
    form: Literal["one", "plural", "list"]
    field: tuple[str, str] | None = None

    def pointer(self, index: int, path: tuple[Any, ...] = ()) -> str:
        """JSON pointer (RFC 6901) into the job's input of a place in item `index`."""
        if self.form == "list":
            path = (index, *path)
        elif self.form == "plural" and self.field:
            singular, plural = self.field
            if not path or path[0] == singular:
                path = (plural, index, *path[1:])
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def split(task: Task, value: Any) -> Split:
    """The items of a job's input, not yet validated one by one. Raises InvalidInput."""
    if task.whole:
        return Split([value], "one")
    if isinstance(value, list):
        return Split(_counted(value, ""), "list")
    if task.many and isinstance(value, dict):
        singular, plural = task.many
        if plural in value:
            if singular in value:
                message = f"give {singular} or {plural}, not both"
                raise InvalidInput(faults=[Fault(pointer=f"/{plural}", message=message)])
            rest = {k: v for k, v in value.items() if k != plural}
            items = value[plural]
            if not isinstance(items, list):
                raise InvalidInput(faults=[Fault(pointer=f"/{plural}", message="must be a list")])
            return Split([{**rest, singular: item} for item in _counted(items, f"/{plural}")], "plural", task.many)
    return Split([value], "one")


def count(task: Task | None, value: Any) -> int:
    """How many items an input has, checked or not; without a task, which a handler of one's own is, a list's."""
    if task is not None and task.whole:
        return 1
    if task is not None and task.many and isinstance(value, dict):
        value = value.get(task.many[1])
    return len(value) if isinstance(value, list) else 1


def _counted(items: list[Any], pointer: str) -> list[Any]:
    if not 1 <= len(items) <= MAX_ITEMS:
        message = f"a job takes 1 to {MAX_ITEMS} items, not {len(items)}; use a batch for more"
        raise InvalidInput(faults=[Fault(pointer=pointer, message=message)])
    return items


def parse_item(task: Task, parts: Split, index: int) -> Any:
    """Item `index` as the task's model. Raises InvalidInput whose faults point into the job's input."""
    try:
        return _adapter(task.item).validate_python(parts.items[index])
    except ValidationError as error:
        raise InvalidInput(faults=_faults(error, lambda path: parts.pointer(index, path))) from None


def parse_parameters(task: Task, value: dict[str, Any] | None) -> tuple[Any, bool]:
    """The task's own parameters, and the service's `partial` (keep the good items of a job). Raises InvalidInput."""
    own = dict(value or {})
    partial = own.pop("partial", False)
    faults = []
    if not isinstance(partial, bool):
        faults.append(Fault(pointer="/parameters/partial", message="must be true or false"))
    try:
        parameters = task.parameters.model_validate(own)
    except ValidationError as error:
        faults += _faults(error, lambda path: "/parameters" + Split([], "one").pointer(0, path))
    if faults:
        raise InvalidInput(faults=faults)
    return parameters, partial


def check(task: Task, value: Any, parameters: dict[str, Any] | None) -> int:
    """Validate a job whole, as the API does before it accepts it; returns its number of items. With
    `parameters.partial` bad items are let through (they become nulls in the output). Raises InvalidInput."""
    _, partial = parse_parameters(task, parameters)
    parts = split(task, value)
    if not partial:
        faults: list[Fault] = []
        for index in range(len(parts.items)):
            try:
                parse_item(task, parts, index)
            except InvalidInput as error:
                faults += error.faults
        if faults:
            raise InvalidInput(faults=faults[:MAX_FAULTS])
    return len(parts.items)


def join(task: Task, parts: Split, outputs: list[Any]) -> Any:
    """One job's output from its items' outputs, in order; a failed item of a partial job is None."""
    if parts.form == "one":
        return outputs[0]
    if parts.form == "list":
        return outputs
    if task.plural_output:
        singular, plural = task.plural_output
        # The other fields of an output (a note such as `truncated`) stay readable, one list for each.
        joined: dict[str, list[Any]] = {plural: []}
        for index, output in enumerate(outputs):
            for name, value in (output or {singular: None}).items():
                column = joined.setdefault(plural if name == singular else name, [])
                column.extend([None] * (index - len(column)))
                column.append(value)
        for column in joined.values():
            column.extend([None] * (len(outputs) - len(column)))
        return joined
    return {"items": outputs}


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(model: Any) -> TypeAdapter[Any]:
    if model not in _adapters:
        _adapters[model] = TypeAdapter(model)
    return _adapters[model]


def message_of(fault: Any) -> str:
    """One of pydantic's, to who has never heard of our classes."""
    return "Input should be an object" if fault["type"] == "model_type" else str(fault["msg"])


def _faults(error: ValidationError, pointer: Any) -> list[Fault]:
    return [
        Fault(pointer=pointer(fault["loc"]), message=message_of(fault))
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]
