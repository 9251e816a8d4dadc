"""Checks a job's input before it is accepted: built-in tasks by their models, a user's handler by its card's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jsonschema_rs

from api.schema_walk import Schema, blob_fields, decode, has_blobs
from shared.errors import Fault, InvalidInput
from shared.task import Task, check, count, parse_parameters

FILE, URL = "$file", "$url"  # the one field of an object that stands in the place of bytes (api/references.py)
_MOST_FAULTS = 100


class InputCheck(Protocol):
    """What the API knows about one version's input."""

    blobs: dict[str, bool]
    """Binary fields of the input: name -> takes a list."""

    def check(self, value: Any, parameters: dict[str, Any]) -> Any:
        """The input with its base64 parts as bytes. Raises InvalidInput: faults of the input point into it, those of
        the parameters begin with `/parameters`."""

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """The parameters alone. Raises InvalidInput as `check`."""

    def items(self, value: Any) -> int:
        """How many items a checked input has."""

    def takes(self, parameter: str) -> bool:
        """Whether a parameter of this name is known to be one of its own."""


class _Blobs:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._any = has_blobs(schema)
        self.blobs = blob_fields(schema) if self._any else {}

    def decode(self, value: Any) -> Any:
        return decode(value, [self._schema], self._schema.get("$defs", {})) if self._any else value


class TaskCheck:
    """By a built-in task's pydantic models, as the worker does."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._blobs = _Blobs(task.input_schema())
        self.blobs = self._blobs.blobs

    def check(self, value: Any, parameters: dict[str, Any]) -> Any:
        """See InputCheck."""
        parse_parameters(self._task, parameters)
        value = self._blobs.decode(value)
        try:
            check(self._task, value, parameters)
        except InvalidInput as error:
            raise InInput(error.faults) from None
        return value

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """See InputCheck."""
        parse_parameters(self._task, parameters)

    def items(self, value: Any) -> int:
        """See InputCheck."""
        return count(self._task, value)

    def takes(self, parameter: str) -> bool:
        """See InputCheck."""
        return parameter in self._task.parameters.model_fields


class InInput(InvalidInput):
    """The input does not fit the model's schema."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults=faults)


class SchemaCheck:
    """By the JSON schema that a handler's card left in Redis. Base64 is not checked here: the worker does."""

    def __init__(self, schema: Schema, parameters_schema: Schema | None) -> None:
        defs = schema.get("$defs", {})
        forms = schema.get("anyOf") or [schema]
        # One validator a form: a fault then has its own place, not "none of the forms fits".
        self._forms = [(form, jsonschema_rs.validator_for({**form, "$defs": defs})) for form in forms]
        self._parameters = jsonschema_rs.validator_for(parameters_schema) if parameters_schema else None
        self._names = frozenset((parameters_schema or {}).get("properties", ()))
        self._blobs = _Blobs(schema)
        self.blobs = self._blobs.blobs

    def check(self, value: Any, parameters: dict[str, Any]) -> Any:
        """See InputCheck."""
        self.check_parameters(parameters)
        if not parameters.get("partial"):
            binary: set[str] = set()
            text = _without_bytes(value, "", binary)
            if faults := _faults(self._validator(value), text, "", binary):
                raise InInput(faults)
        return self._blobs.decode(value)

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """See InputCheck."""
        own = {name: item for name, item in parameters.items() if name != "partial"}
        if not isinstance(parameters.get("partial", False), bool):
            raise InvalidInput(faults=[Fault(pointer="/parameters/partial", message="must be true or false")])
        if self._parameters and (faults := _faults(self._parameters, own, "/parameters", set())):
            raise InvalidInput(faults=faults)

    def items(self, value: Any) -> int:
        """See InputCheck."""
        return count(None, value)

    def takes(self, parameter: str) -> bool:
        """See InputCheck."""
        return parameter in self._names

    def _validator(self, value: Any) -> Any:
        """Of the form that the value means: a list, or the object form that shares most fields with it."""

        def likeness(form: Schema) -> int:
            if isinstance(value, list):
                return int(form.get("type") == "array")
            if isinstance(value, dict) and form.get("type") != "array":
                return 1 + len(value.keys() & form.get("properties", {}).keys())
            return 0

        return max(self._forms, key=lambda pair: likeness(pair[0]))[1]


class NoCheck:
    """Nothing is known of the input yet: no worker has ever served this version here."""

    blobs: dict[str, bool] = {}

    def check(self, value: Any, parameters: dict[str, Any]) -> Any:
        """See InputCheck."""
        return value

    def check_parameters(self, parameters: dict[str, Any]) -> None:
        """See InputCheck."""

    def items(self, value: Any) -> int:
        """See InputCheck."""
        return count(None, value)

    def takes(self, parameter: str) -> bool:
        """See InputCheck."""
        return False


def place(base: Any, files: Sequence[tuple[str, bytes]], blobs: dict[str, bool]) -> Any:
    """Uploaded files as fields of the input beside `base`. The file named "" is a raw body: it goes to the input's
    first binary field. A field given twice, or known to take a list, becomes a list."""
    if not files:
        return base
    if base is not None and not isinstance(base, dict):
        raise InInput([Fault(message="must be an object when files are sent beside it")])
    value: dict[str, Any] = dict(base or {})
    parts: dict[str, list[bytes]] = {}
    for name, content in files:
        parts.setdefault(name or next(iter(blobs), "image"), []).append(content)
    for name, contents in parts.items():
        value[name] = contents if len(contents) > 1 or blobs.get(name) else contents[0]
    return value


def pointer(path: Sequence[Any]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _without_bytes(value: Any, at: str, binary: set[str]) -> Any:
    """A copy for the validator, which knows only JSON; `binary` gets the pointers of the bytes."""
    if isinstance(value, bytes):
        binary.add(at)
        return ""
    if isinstance(value, dict):
        return {name: _without_bytes(item, at + pointer([name]), binary) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_bytes(item, f"{at}/{index}", binary) for index, item in enumerate(value)]
    return value


def _faults(validator: Any, value: Any, prefix: str, binary: set[str]) -> list[Fault]:
    faults: list[Fault] = []
    for error in validator.iter_errors(value):
        at = pointer(error.instance_path)
        if at in binary:
            continue
        kind = error.kind
        if kind.name == "required":
            faults.append(Fault(pointer=prefix + at + pointer([kind.property]), message="Field required"))
        elif kind.name == "additionalProperties":
            for name in kind.unexpected:
                faults.append(Fault(pointer=prefix + at + pointer([name]), message="Extra inputs are not permitted"))
        else:
            faults.append(Fault(pointer=prefix + at, message=error.message[:500]))
        if len(faults) >= _MOST_FAULTS:
            break
    return faults
