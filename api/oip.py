"""Models as the Open Inference Protocol v2 sees them: a task's fields as tensors, items along the first dimension.

`text` BYTES [N] and `embedding` FP32 [N, H]; `image` BYTES [N] (files) or FP32 [N, 3, H, W] (preprocessed), `labels`
BYTES and `scores` FP32 [N, K]. Any other field has its own name: texts and files as BYTES, numbers as they are; what is
no regular array (boxes, entities) is one JSON text an item, in BYTES.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import orjson

from api.schema_walk import blob_fields, has_blobs
from api.tensors import Tensor, of_values
from shared.errors import Fault, InvalidInput
from shared.tasks import IMAGE_CLASSIFICATION, MAX_ITEMS, TEXT_EMBEDDING, Task

OUTPUT = "output"  # of what has no fields
_NUMBERS = {"number": "FP32", "integer": "INT64", "boolean": "BOOL", "string": "BYTES"}

Schema = dict[str, Any]
Told = dict[str, Any]


def inputs_of(task: Task | None, schema: Schema | None) -> list[Told]:
    """The tensors that a model takes, as its metadata tell them. `schema`: of a handler's own input."""
    if task is not None and task.whole:
        return []
    whole = task.input_schema() if task is not None else schema
    if not whole:
        return []
    forms: list[Schema] = whole.get("anyOf") or [whole]
    one = next((form for form in forms if form.get("type") == "object"), {})
    blobs = blob_fields(whole) if has_blobs(whole) else {}
    told = []
    for name, field in one.get("properties", {}).items():
        datatype = "BYTES" if name in blobs else _NUMBERS.get(_kind(field), "BYTES")
        told.append({"name": name, "datatype": datatype, "shape": [-1]})
    return told


def _kind(field: Schema) -> str:
    """Of a field's JSON schema; of a union the first that is not null."""
    forms = field.get("anyOf") or [field]
    return str(next((form["type"] for form in forms if form.get("type") not in (None, "null")), ""))


def outputs_of(task: Task | None, schema: Schema | None) -> list[Told]:
    """The tensors that it gives."""
    if task is TEXT_EMBEDDING:
        return [{"name": "embedding", "datatype": "FP32", "shape": [-1, -1]}]
    whole = task.output_schema() if task is not None else schema
    if _is_labels(task, whole):
        return [
            {"name": "labels", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
        ]
    fields = (whole or {}).get("properties")
    if not fields:
        return [{"name": OUTPUT, "datatype": "BYTES", "shape": [-1]}]
    return [
        {"name": name, "datatype": _NUMBERS.get(_kind(field), "BYTES"), "shape": [-1]} for name, field in fields.items()
    ]


def _is_labels(task: Task | None, schema: Schema | None) -> bool:
    if task is IMAGE_CLASSIFICATION:
        return True
    items = (schema or {}).get("items", {})
    return bool(schema) and items.get("$ref", "").endswith("/ScoredLabel")


def items_of(tensors: Sequence[Tensor], task: Task | None, schema: Schema | None) -> Any:
    """The job's input: a list of items, one a row; of a model that splits nothing, an object of its tensors. Raises
    InvalidInput (pointers into the request)."""
    whole = task.input_schema() if task is not None else schema or {}
    blobs = blob_fields(whole) if has_blobs(whole) else {}
    columns = {
        tensor.name: _column(tensor, number, tensor.name in blobs, task) for number, tensor in enumerate(tensors)
    }
    if task is not None and task.whole:
        return columns
    first = tensors[0]
    for number, tensor in enumerate(tensors):
        if not tensor.shape or tensor.shape[0] != first.shape[0]:
            raise _fault(number, "shape", f"the first dimension is that of the items, and of {first.name!r} another")
    if not 1 <= first.shape[0] <= MAX_ITEMS:
        raise _fault(0, "shape", f"1 to {MAX_ITEMS} items, not {first.shape[0]}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _column(tensor: Tensor, number: int, binary: bool, task: Task | None) -> list[Any]:
    if tensor.datatype == "BYTES":
        rows = tensor.rows()
        return rows if binary else [_text(row, number) for row in rows]
    if task is IMAGE_CLASSIFICATION and tensor.name == "image":
        return _pictures(tensor, number)
    if tensor.datatype.startswith("FP") and not all(map(math.isfinite, tensor.values)):
        raise _fault(number, "data", "NaN and Infinity are no input")
    return tensor.rows()


def _text(row: Any, number: int) -> Any:
    if isinstance(row, list):
        return [_text(one, number) for one in row]
    try:
        return row.decode()
    except UnicodeDecodeError:
        raise _fault(number, "data", "texts are UTF-8") from None


def _pictures(tensor: Tensor, number: int) -> list[Any]:
    """Each as a .npy file: what the model's own preprocessing would have made of it."""
    if len(tensor.shape) != 4 or tensor.shape[1] != 3 or tensor.datatype != "FP32":
        raise _fault(number, "shape", "pictures are FP32 [N, 3, height, width], or files as BYTES [N]")
    head = npy_head(tensor.shape[1:])
    return [head + row for row in tensor.row_bytes()]


def npy_head(shape: Sequence[int]) -> bytes:
    """Of a little-endian float32 array in C order; https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    (version 1.0)."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({', '.join(map(str, shape))},), }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _fault(number: int, part: str, message: str) -> InvalidInput:
    return InvalidInput(faults=[Fault(pointer=f"/inputs/{number}/{part}", message=message)])


def tensors_of(output: Any, task: Task | None) -> list[Tensor]:
    """A job's output, which is a list of items' outputs (or one, of a model that splits nothing)."""
    rows = output if isinstance(output, list) and not (task is not None and task.whole) else [output]
    ranked = [found for row in rows if (found := _labels(row)) is not None]
    if len(ranked) == len(rows):
        labels = of_values("labels", [[one["label"] for one in row] for row in ranked])
        scores = of_values("scores", [[float(one["score"]) for one in row] for row in ranked])
        if labels is not None and scores is not None:
            return [labels, scores]
    if not all(isinstance(row, dict) for row in rows):
        return [of_values(OUTPUT, rows) or _as_json(OUTPUT, rows)]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return [of_values(name, column) or _as_json(name, column) for name, column in columns.items()]


def _labels(row: Any) -> list[dict[str, Any]] | None:
    found = row.get("labels") if isinstance(row, dict) and len(row) == 1 else row
    if not isinstance(found, list) or not found:
        return None
    return found if all(isinstance(one, dict) and one.keys() == {"label", "score"} for one in found) else None


def _as_json(name: str, rows: list[Any]) -> Tensor:
    return Tensor(name, "BYTES", (len(rows),), [orjson.dumps(row) for row in rows])
