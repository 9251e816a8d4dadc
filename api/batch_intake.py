"""From the text of a batch's inputs to what is stored of them. For threads: JSON, checks and base64 of a slice take
milliseconds, in which the event loop serves others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from api.batch_lines import Raw
from api.bodies import read_json
from api.inputs import InputCheck
from shared import keys, messages
from shared.errors import BadRequest, Fault, InvalidInput
from shared.payloads import detach
from shared.scripts_batches import Line

_TOLD_BYTES = 2000  # of one line's faults


@dataclass(slots=True)
class Intake:
    """What a slice has come to: lines that fit, the errors (JSON) of those that do not, payloads by key."""

    lines: list[Line] = field(default_factory=list)
    refused: dict[int, bytes] = field(default_factory=dict)
    payloads: list[tuple[str, bytes]] = field(default_factory=list)
    items: int = 0
    size: int = 0


class Reader:
    """Of one batch; its slices one after the other, in any thread. `longest` is the most bytes of a line,
    `input_bytes` the model's own limit."""

    def __init__(
        self,
        batch_id: str,
        check: InputCheck,
        parameters: dict[str, Any],
        *,
        longest: int,
        input_bytes: int,
        inline_bytes: int,
    ) -> None:
        self._batch_id = batch_id
        self._check, self._parameters = check, parameters
        self._longest, self._input_bytes, self._inline_bytes = longest, input_bytes, inline_bytes
        self._digest = hashlib.sha256()

    def read(self, first: int, raws: list[Raw]) -> Intake:
        """The slice whose first line has this number."""
        taken = Intake()
        for number, raw in enumerate(raws, first):
            text = b"?" if raw is None else raw
            self._digest.update(b"%d\n%s" % (len(text), text))
            try:
                self._take(number, raw, taken)
            except (InvalidInput, BadRequest) as error:
                taken.refused[number] = _told(error)
        return taken

    def fingerprint(self, asked: list[Any]) -> str:
        """Of what was asked for, and of all lines that were read."""
        own = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(own + self._digest.digest()).hexdigest()

    def _take(self, number: int, raw: Raw, taken: Intake) -> None:
        if raw is None:
            raise InvalidInput(f"the line has more than {self._longest} bytes")
        try:
            value = read_json(raw)
        except BadRequest as error:
            raise InvalidInput(error.message.replace("the body", "the line", 1)) from None
        try:
            detached = detach(self._check.check(value, self._parameters), self._inline_bytes)
            text = orjson.dumps(detached.input)
        except (TypeError, RecursionError):
            raise InvalidInput("the input is nested too deeply") from None
        if detached.size > self._input_bytes:
            raise InvalidInput(f"the model takes inputs of up to {self._input_bytes} bytes, not {detached.size}")
        items = self._check.items(value)
        pointers = orjson.dumps(detached.pointers) if detached.parts else b""
        taken.lines.append(Line(number, detached.size, items, pointers, messages.encode_input(text)))
        job_id = keys.line_id(self._batch_id, number)
        taken.payloads += [(keys.payload_key(job_id, n), part) for n, part in enumerate(detached.parts)]
        taken.items += items
        taken.size += detached.size


def _told(error: InvalidInput | BadRequest) -> bytes:
    """As a job's error, within bounds: 100,000 lines may each have a hundred faults."""
    faults: list[Fault] = []
    size = 0
    for fault in error.faults:
        size += len(fault.pointer) + len(fault.message)
        if faults and size > _TOLD_BYTES:
            break
        faults.append(fault)
    told: dict[str, Any] = {"code": InvalidInput.code, "message": error.message}
    if faults:
        told["errors"] = [
            {"pointer": fault.pointer[:_TOLD_BYTES], "code": fault.code, "message": fault.message[:_TOLD_BYTES]}
            for fault in faults
        ]
    return orjson.dumps(told)
