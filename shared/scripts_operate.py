"""The scripts of the operators' commands. Beside shared/scripts.py, which has those of a job's path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.calls import Call, iso_now, script
from shared.messages import VERSION

Where = Literal["lists", "held", "delayed"]


def pause(model: str, *, on: bool) -> Call[bool]:
    """Workers start no job of it from now on, or (`on` False) do again. Whether that was not so before."""
    return Call(script("pause"), (), [model, "1" if on else "0"], bool)


@dataclass(frozen=True, slots=True)
class Purged:
    """`cursor` is to be given to the next call; '0': all of the place has been looked at."""

    ended: int
    cursor: str


def purge(lists: Sequence[str], refs: Sequence[str], *, where: Where, cursor: str = "0", most: int) -> Call[Purged]:
    """About `most` jobs of `refs` (whose lists are `lists`) that have not started end as canceled."""
    args: list[str | int] = [where, cursor, most, iso_now(), VERSION, *refs]
    return Call(script("purge"), lists, args, lambda reply: Purged(reply[0], reply[1].decode()))
