"""`{"$file": "file_..."}` and `{"$url": "https://..."}` in an input, in the place of bytes.

A file is looked up, never read: its job reads the very objects that its upload wrote. (One exception: a file whose type
is JSON and that is the whole input is read, to be checked like any other input.) A URL is fetched by
shared/outbound.py, if ML_INPUT_URLS lets it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from api.auth import Caller
from api.bodies import read_json
from api.content_types import is_json
from api.files import FileService
from api.inputs import FILE, URL, InInput, pointer
from api.payloads import ApiPayloads, Fetched, FilePart
from shared.errors import (
    AddressRefused,
    BadRequest,
    CallFailed,
    Fault,
    PayloadsUnavailable,
    RecordUnreadable,
    TooLarge,
)
from shared.outbound import Answer, Outbound
from shared.payloads import Elsewhere
from shared.settings import Settings

_MOST, _MOST_URLS = 2048, 32  # of one input
_FETCHES = 8  # at the same time, of one process
_MOST_FAULTS = 100


class UrlPart(Elsewhere):
    """What a URL leads to, not yet fetched."""

    url: str
    at: str  # JSON pointer into the input


@dataclass(slots=True)
class Resolved:
    """`value`: the input with files and URLs in the place of its references; `whole`: the file it was read from."""

    value: Any
    whole: FilePart | None = None
    urls: list[UrlPart] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """References of an input, by pointer."""

    files: dict[str, str] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


class References:
    """For one event loop."""

    def __init__(
        self, settings: Settings, files: FileService, payloads: ApiPayloads, outbound: Outbound | None
    ) -> None:
        """`outbound` None: URLs are off."""
        self._files, self._payloads, self._outbound = files, payloads, outbound
        self._timeout_s = settings.input_url_timeout_s
        self._fetches = asyncio.Semaphore(_FETCHES)

    async def resolve(self, value: Any, caller: Caller, *, most_bytes: int) -> Resolved:
        """Of one input, as JSON gave it; it is not changed. Raises InInput (pointers into the input), TooLarge for a
        file of more than `most_bytes`, StoreUnavailable, PayloadsUnavailable."""
        found = _Found()
        _find(value, "", found)
        if len(found.files) > _MOST:
            raise InInput([Fault(message=f"has more than {_MOST} files")])
        self._check_urls(found)
        files = await self._files.find(list(found.files.values()), caller) if found.files else []
        parts: dict[str, Elsewhere] = {}
        for (at, file_id), file in zip(found.files.items(), files, strict=True):
            if file is None:
                message = (
                    f"there is no file {file_id[:64]!r}: it was never uploaded by this key, was deleted, or has expired"
                )
                found.faults.append(Fault(pointer=at, message=message))
            else:
                parts[at] = file.part()
        if found.faults:
            raise InInput(found.faults[:_MOST_FAULTS])
        for at, url in found.urls.items():
            part = UrlPart()
            part.url, part.at = url, at
            parts[at] = part
        if sum(part.size for part in parts.values()) > most_bytes:
            raise TooLarge(f"the model takes inputs of up to {most_bytes} bytes; the files of this one have more")
        whole = parts.get("")
        if isinstance(whole, FilePart) and is_json(whole.content_type):
            return Resolved(await self._read(whole), whole)
        urls = [part for part in parts.values() if isinstance(part, UrlPart)]
        return Resolved(_replaced(value, "", parts), urls=urls)

    async def fetch(self, urls: list[UrlPart], *, most_bytes: int) -> list[Fetched]:
        """What each leads to, which may be `most_bytes`. Raises InInput."""
        fetched = await asyncio.gather(*(self._fetch(part, most_bytes) for part in urls))
        if faults := [one for one in fetched if isinstance(one, Fault)]:
            raise InInput(faults)
        return [one for one in fetched if isinstance(one, Fetched)]

    async def _fetch(self, part: UrlPart, most_bytes: int) -> Fetched | Fault:
        assert self._outbound is not None  # noqa: S101 - else `resolve` has refused it
        try:
            async with self._fetches:
                answer: Answer = await self._outbound.call(
                    "GET", part.url, timeout_s=self._timeout_s, max_bytes=most_bytes
                )
        except (AddressRefused, CallFailed) as error:
            return Fault(pointer=part.at, code=error.code, message=error.message)
        if answer.status != 200:
            message = f"its server answers {answer.status}, not 200; redirects are not followed"
            return Fault(pointer=part.at, code=CallFailed.code, message=message)
        fetched = Fetched(answer.body)
        fetched.url = part.url
        return fetched

    def _check_urls(self, found: _Found) -> None:
        if found.urls and self._outbound is None:
            message = "inputs by URL are off here (ML_INPUT_URLS): send the bytes, or upload a file"
            found.faults += [Fault(pointer=at, message=message) for at in found.urls]
        elif len(found.urls) > _MOST_URLS:
            raise InInput([Fault(message=f"has more than {_MOST_URLS} URLs")])

    async def _read(self, whole: FilePart) -> Any:
        try:
            return read_json(await self._payloads.get(whole.ref))
        except BadRequest as error:
            raise InInput([Fault(message=f"the file is no such JSON: {error.message}")]) from None
        except RecordUnreadable:
            raise PayloadsUnavailable("the file is not in the payload store") from None


def _find(value: Any, at: str, found: _Found) -> None:
    if isinstance(value, dict):
        if len(value) == 1 and (FILE in value or URL in value):
            (name, told), into = next(iter(value.items())), found.files if FILE in value else found.urls
            if isinstance(told, str):
                into[at] = told
            else:
                found.faults.append(Fault(pointer=at + pointer([name]), message="must be text"))
            return
        for name, item in value.items():
            _find(item, at + pointer([name]), found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find(item, f"{at}/{index}", found)


def _replaced(value: Any, at: str, parts: dict[str, Elsewhere]) -> Any:
    if at in parts:
        return parts[at]
    if isinstance(value, dict):
        return {name: _replaced(item, at + pointer([name]), parts) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, f"{at}/{index}", parts) for index, item in enumerate(value)]
    return value
