"""The payload store on the API's side: large parts of inputs go there before their job is submitted, outputs come back.

The store blocks, so it is asked in threads of its own, a few at a time: that also bounds what is held in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from api.submitter import Submitter
from shared.errors import PayloadsUnavailable, RecordUnreadable
from shared.payload_place import PayloadRef
from shared.payload_store import BYTES_TYPE, GRACE_S, JSON_TYPE, PayloadGone, Payloads
from shared.payloads import BYTES, WHOLE, Detached, Elsewhere
from shared.scripts_payloads import free, stash
from shared.settings import Settings

T = TypeVar("T")

_THREADS = 8


class FilePart(Elsewhere):
    """An uploaded file in the place of bytes."""

    file_id: str
    ref: PayloadRef
    sha256: str
    content_type: str


class Fetched(bytes):
    """What a URL led to."""

    url: str


@dataclass(slots=True)
class Stowed:
    """Where the parts of an input are: `refs` by number of those in the payload store, `size` bytes together, `rest`
    those that are to be keys of the job. `own` references go with the job; `files`, and where in the input each is,
    belong to their owner."""

    refs: dict[int, str] = field(default_factory=dict)
    size: int = 0
    rest: list[bytes] = field(default_factory=list)
    own: list[PayloadRef] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def fields(self) -> dict[str, str | int]:
        """Of the job's record."""
        found: dict[str, str | int] = {}
        if self.own:
            found["stored"] = " ".join(map(str, self.own))
        if self.files:
            found["files"] = " ".join(self.files)
        if self.refs:
            found["stored_bytes"] = self.size
        return found


class ApiPayloads:
    """For one event loop."""

    def __init__(self, settings: Settings, store: Payloads, submitter: Submitter) -> None:
        self.store, self._submitter = store, submitter
        self._least = settings.store_bytes
        self._signed_s = settings.signed_url_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="payloads")

    def close(self) -> None:
        """What is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stow(self, detached: Detached) -> Stowed:
        """Put large parts where they belong. Raises StoreUnavailable, PayloadsUnavailable: then nothing is left."""
        stowed = Stowed()
        puts: list[tuple[PayloadRef, bytes, str]] = []
        for number, part in enumerate(detached.parts):
            if isinstance(part, FilePart):
                stowed.refs[number] = str(part.ref)
                stowed.size += part.size
                stowed.files.setdefault(part.file_id, detached.pointers[number].removeprefix(BYTES))
            elif self.store.external and len(part) > self._least:
                ref = PayloadRef.new(self.store.kind)
                stowed.refs[number] = str(ref)
                stowed.size += len(part)
                puts.append((ref, part, JSON_TYPE if detached.pointers[number] == WHOLE else BYTES_TYPE))
            else:
                stowed.rest.append(part)
        if puts:
            stowed.own.extend(ref for ref, _, _ in puts)
            await self._put_all(puts)
        return stowed

    async def _put_all(self, puts: list[tuple[PayloadRef, bytes, str]]) -> None:
        refs = [ref for ref, _, _ in puts]
        await self._submitter.one(stash(refs, GRACE_S))
        done = await asyncio.gather(*(self.put(ref, 0, data, kind) for ref, data, kind in puts), return_exceptions=True)
        failed = next((one for one in done if isinstance(one, BaseException)), None)
        if failed is not None:
            await self.free(refs)
            raise failed

    async def put(self, ref: PayloadRef, number: int, data: bytes, content_type: str = BYTES_TYPE) -> None:
        """One object. Raises PayloadsUnavailable."""
        await self._run(lambda: self.store.put(ref, number, data, content_type))

    async def free(self, refs: list[PayloadRef]) -> None:
        """They belong to nobody. Where Redis is away they go by their expiry."""
        if refs:
            await self._submitter.run(free(refs))

    async def get(self, ref: PayloadRef) -> bytes:
        """All of it. Raises PayloadsUnavailable, RecordUnreadable for what is gone."""
        return b"".join([chunk async for chunk in self.chunks(ref)])

    async def chunks(self, ref: PayloadRef) -> AsyncIterator[bytes]:
        """Object by object. Raises as `get`."""
        for number in range(ref.count):
            yield await self.chunk(ref, number)

    async def chunk(self, ref: PayloadRef, number: int) -> bytes:
        """One object. Raises as `get`."""
        try:
            return await self._run(lambda: self.store.chunk(ref, number))
        except PayloadGone:
            raise RecordUnreadable("it is not in the payload store any more") from None

    async def url(self, ref: PayloadRef) -> str | None:
        """A signed one. None: the store has none, or is away."""
        try:
            return await self._run(lambda: self.store.signed_url(ref, self._signed_s))
        except PayloadsUnavailable:
            return None

    async def size(self, text: str) -> int | None:
        """Of what a reference in a message means. None: it is gone. Raises PayloadsUnavailable."""
        try:
            ref = PayloadRef.parse(text)
        except ValueError:
            return None
        sizes = [await self._run(partial(self.store.size, ref, number)) for number in range(ref.count)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    async def delete(self, refs: list[PayloadRef]) -> None:
        """Raises PayloadsUnavailable."""
        await self._run(lambda: self.store.delete(refs))

    async def _run(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)
