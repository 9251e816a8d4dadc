"""From the text of a batch's inputs to what is stored of them. For threads: JSON, checks and base64 of a slice take
milliseconds, in which the event loop serves others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from api.batch_lines import Raw
from api.bodies import has_references, read_json
from api.inputs import InputCheck
from api.intake import Taken
from api.payloads import Stowed
from shared import keys, messages
from shared.errors import BadRequest, Fault, InvalidInput, TooLarge
from shared.payload_place import PayloadRef
from shared.payloads import detach
from shared.scripts_batches import Line, beside

REFUSED = (InvalidInput, BadRequest, TooLarge)
_TOLD_BYTES = 2000  # of one line's faults


@dataclass(slots=True)
class Slice:
    """What a slice has come to: lines that fit, the errors (JSON) of those that do not; and, until they are dealt with,
    `parted`: inputs with parts, `referring`: those that name files or URLs, both by line."""

    batch_id: str
    lines: list[Line] = field(default_factory=list)
    refused: dict[int, bytes] = field(default_factory=dict)
    parted: dict[int, Taken] = field(default_factory=dict)
    referring: dict[int, Any] = field(default_factory=dict)
    payloads: list[tuple[str, bytes]] = field(default_factory=list)  # keys of the lines' jobs
    stored: list[PayloadRef] = field(default_factory=list)  # in the payload store, for this batch
    stored_count: int = 0  # and with the files that it only uses
    items: int = 0
    size: int = 0

    def take(self, number: int, taken: Taken) -> None:
        """An input that fits."""
        self.items += taken.items
        self.size += taken.detached.size
        if taken.detached.parts:
            self.parted[number] = taken
        else:
            self._add(number, taken, Stowed())

    def refuse(self, number: int, error: InvalidInput | BadRequest | TooLarge) -> None:
        """An input that does not fit."""
        self.refused[number] = _told(error)

    def stow(self, number: int, stowed: Stowed) -> None:
        """Where the parts of an input are."""
        self._add(number, self.parted.pop(number), stowed)
        job_id = keys.line_id(self.batch_id, number)
        self.payloads += [(keys.payload_key(job_id, n), part) for n, part in enumerate(stowed.rest)]
        self.stored += stowed.own
        self.stored_count += len(stowed.refs)

    def _add(self, number: int, taken: Taken, stowed: Stowed) -> None:
        detached = taken.detached
        pointers, elsewhere = orjson.dumps(detached.pointers) if detached.parts else b"", b""
        if stowed.refs:
            own = [str(ref) for ref in stowed.own]
            elsewhere = beside(stowed.refs, stored=own, files=list(stowed.files), size=stowed.size)
        text = messages.encode_input(orjson.dumps(detached.input))
        self.lines.append(Line(number, detached.size - stowed.size, taken.items, pointers, text, elsewhere))


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

    def read(self, first: int, raws: list[Raw]) -> Slice:
        """The slice whose first line has this number."""
        found = Slice(self._batch_id)
        for number, raw in enumerate(raws, first):
            text = b"?" if raw is None else raw
            self._digest.update(b"%d\n%s" % (len(text), text))
            try:
                value = self._parse(raw)
                if has_references(text):
                    found.referring[number] = value
                else:
                    found.take(number, self._take(value))
            except REFUSED as error:
                found.refuse(number, error)
        return found

    def fingerprint(self, asked: list[Any]) -> str:
        """Of what was asked for, and of all lines that were read."""
        own = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(own + self._digest.digest()).hexdigest()

    def _parse(self, raw: Raw) -> Any:
        if raw is None:
            raise InvalidInput(f"the line has more than {self._longest} bytes")
        try:
            return read_json(raw)
        except BadRequest as error:
            raise InvalidInput(error.message.replace("the body", "the line", 1)) from None

    def _take(self, value: Any) -> Taken:
        """As api/intake.py does it for a job, without waiting for anybody."""
        checked = self._check.check(value, self._parameters)
        try:
            detached = detach(checked, self._inline_bytes)
        except (TypeError, RecursionError):
            raise InvalidInput("the input is nested too deeply") from None
        if detached.size > self._input_bytes:
            raise InvalidInput(f"the model takes inputs of up to {self._input_bytes} bytes, not {detached.size}")
        return Taken(detached, self._check.items(checked))


def _told(error: InvalidInput | BadRequest | TooLarge) -> bytes:
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
