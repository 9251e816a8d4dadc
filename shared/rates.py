"""Rate limits as they are written down: in an API key, and in `limits.per_key` of a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, WithJsonSchema

_PERIODS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"(?P<amount>[0-9]{1,15}\s*([KMGT]iB|[KMGT]?B?))\s*/\s*(?P<period>second|minute|hour|day)")
_MOST = 2**53  # up to here the scripts that count in Redis are exact
_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds."""

    amount: int
    window_s: int


def parse_rate(text: str) -> Rate:
    """`100/minute`; sizes too, as in `50MB/hour`. Raises ValueError."""
    found = _RATE.fullmatch(text)
    amount = 0
    if found:
        amount = int(_SIZE.validate_python(found["amount"].strip()))
    if not found or not 1 <= amount <= _MOST:
        raise ValueError(f"must be a number from 1 on a period, as in 100/minute or 50MB/hour, not {text[:40]!r}")
    return Rate(amount, _PERIODS_S[found["period"]])


def _readable(text: str) -> str:
    parse_rate(text)
    return text


# Told to clients a little more strictly than it is read.
_TOLD = {"pattern": r"^[1-9][0-9]{0,8}([KMG]?B)?/(second|minute|hour|day)$"}
RateText = Annotated[
    str, AfterValidator(_readable), Field(examples=["100/minute"]), WithJsonSchema({"type": "string", **_TOLD})
]


class Rates(BaseModel):
    """What one caller may ask for; None: as much as it likes. `items`: of all its jobs; `bytes`: of their inputs;
    `concurrent`: jobs that have not ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: RateText | None = None
    items: RateText | None = None
    bytes: RateText | None = None
    concurrent: int | None = Field(None, ge=1)
