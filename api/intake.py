"""From an input as a caller sent it to its parts, checked: files and URLs in it found, the check of its model passed,
the large parts taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.auth import Caller
from api.inputs import InInput, InputCheck, NoCheck, place
from api.payloads import Fetched
from api.references import References, Resolved, UrlPart
from shared.errors import BadRequest, Fault, TooLarge
from shared.payloads import WHOLE, Detached, Elsewhere, detach
from shared.settings import Settings


@dataclass(slots=True)
class Taken:
    """A checked input of `items` items. What its `urls` lead to is not there yet: see `fetch`."""

    detached: Detached
    items: int
    urls: list[UrlPart] = field(default_factory=list)


class Intake:
    """For one event loop. One input of a call, or one line of a batch."""

    def __init__(self, settings: Settings, references: References) -> None:
        self._inline_bytes = settings.inline_bytes
        self._references = references

    async def take(
        self,
        value: Any,
        parameters: dict[str, Any],
        check: InputCheck,
        caller: Caller,
        *,
        most_bytes: int,
        files: Sequence[tuple[str, bytes]] = (),
        references: bool = True,
    ) -> Taken:
        """`files`: parts of the input that came beside it; `references`: it may name files or URLs; `most_bytes`: of an
        input of this model. Raises InvalidInput (faults point into the input, or begin with /parameters), TooLarge,
        BadRequest, StoreUnavailable, PayloadsUnavailable."""
        resolved = Resolved(value)
        if references:
            resolved = await self._references.resolve(value, caller, most_bytes=most_bytes)
        given = resolved.value
        if isinstance(given, Elsewhere):  # the whole input: like a raw body
            if not check.blobs and not isinstance(check, NoCheck):
                message = "the model takes no bytes: a file that is its whole input must be JSON by its content type"
                raise InInput([Fault(message=message)])
            given = place(None, [("", given)], check.blobs)
        given = check.check(place(given, files, check.blobs), parameters)
        items = check.items(given)
        if resolved.whole is not None:
            return Taken(Detached(None, [WHOLE], [resolved.whole], resolved.whole.size), items)
        try:
            detached = detach(given, self._inline_bytes)
        except (TypeError, RecursionError):
            raise BadRequest("the input is nested too deeply") from None
        if detached.size > most_bytes:
            raise TooLarge(f"the model takes inputs of up to {most_bytes} bytes, not {detached.size}")
        return Taken(detached, items, resolved.urls)

    async def fetch(self, taken: Taken, known: dict[str, Fetched], *, most_bytes: int) -> int:
        """What its URLs lead to becomes its parts; how many bytes that are, beside those of `known` (by URL), which
        gets them. Raises InvalidInput, TooLarge."""
        detached = taken.detached
        missing = list({part.url: part for part in taken.urls if part.url not in known}.values())
        fetched = await self._references.fetch(missing, most_bytes=most_bytes - detached.size)
        known |= {one.url: one for one in fetched}
        detached.parts = [known[part.url] if isinstance(part, UrlPart) else part for part in detached.parts]
        detached.size += sum(len(known[part.url]) for part in taken.urls)
        if detached.size > most_bytes:
            raise TooLarge(f"the model takes inputs of up to {most_bytes} bytes, not {detached.size}")
        return sum(map(len, fetched))
