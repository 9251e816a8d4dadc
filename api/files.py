"""Files: uploaded once, piece by piece, used by any number of jobs of the same key.

A file is written under a reference that is stashed before each object, so an upload that breaks leaves nothing behind.
Its objects are those that jobs then read: nothing is copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from api.auth import Caller
from api.payloads import ApiPayloads, FilePart
from api.schemas import FileTold
from api.submitter import Command, Submitter
from shared import keys
from shared.errors import FilesFull, RequestTimeout, StoreUnavailable, TooLarge, UnknownFile
from shared.outcomes import readable
from shared.payload_place import PayloadRef
from shared.payload_store import GRACE_S
from shared.scripts_payloads import Added, add_file, delete_file, file_room, stash
from shared.settings import Settings
from shared.types import from_ms

FILE_ID = re.compile(r"file_[0-9a-f]{32}", re.ASCII)
MOST_FILES = 5000  # of one owner at a time
_UPLOADS, _UPLOADS_OF_ONE = 32, 8  # at the same time, of one process


@dataclass(frozen=True, slots=True)
class File:
    """What is known of one that can be used. `ref`: where it lies."""

    told: FileTold
    ref: PayloadRef

    def part(self) -> FilePart:
        """It, in the place of bytes of an input."""
        part = FilePart()
        part.size, part.file_id, part.ref = self.told.bytes, self.told.id, self.ref
        part.sha256, part.content_type = self.told.sha256, self.told.content_type
        return part


class FileService:
    """For one event loop. All methods raise StoreUnavailable when Redis is away or takes no writes."""

    def __init__(self, settings: Settings, submitter: Submitter, payloads: ApiPayloads) -> None:
        self._settings, self._submitter, self._payloads = settings, submitter, payloads
        # Each upload holds two objects' worth of memory: what comes beyond these waits, unread.
        self._uploads = asyncio.Semaphore(_UPLOADS)
        self._uploads_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def add(
        self, caller: Caller, pieces: AsyncIterator[bytes], *, content_type: str, length: int | None = None
    ) -> FileTold:
        """`length`: as it was told beforehand. Raises TooLarge, FilesFull, PayloadsUnavailable, and what `pieces`
        raises; then nothing is left."""
        most = self._settings.most_file_bytes
        if length is not None and length > most:
            raise TooLarge(_too_large(most))
        bytes_there, files_there = await self._submitter.one(file_room(caller.owner))
        if files_there >= MOST_FILES or bytes_there + (length or 0) > self._settings.most_files_bytes:
            raise self._full(bytes_there, files_there)
        chunk = self._payloads.store.chunk_bytes
        writing = PayloadRef.new(self._payloads.store.kind, -(-most // chunk))
        own = self._uploads_of.setdefault(caller.owner, asyncio.Semaphore(_UPLOADS_OF_ONE))
        async with own, self._uploads:
            try:
                size, count, digest = await self._write(writing, pieces, most)
                ref = PayloadRef(writing.kind, writing.stem, count)
                return await self._keep(caller, writing, ref, size, {"sha256": digest, "content_type": content_type})
            except BaseException:
                with contextlib.suppress(StoreUnavailable):  # then it expires
                    await asyncio.shield(self._payloads.free([writing]))
                raise

    async def _write(self, writing: PayloadRef, pieces: AsyncIterator[bytes], most: int) -> tuple[int, int, str]:
        """Size, number of objects, digest."""
        digest, size, count = hashlib.sha256(), 0, 0
        chunk_bytes, buffer = self._payloads.store.chunk_bytes, bytearray()

        async def flush() -> None:
            nonlocal count
            data = bytes(buffer[:chunk_bytes])
            del buffer[:chunk_bytes]
            await self._submitter.one(stash([writing], GRACE_S))
            await self._payloads.put(writing, count, data)
            count += 1

        async for piece in pieces:
            size += len(piece)
            if size > most:
                raise TooLarge(_too_large(most))
            if len(piece) > 100_000:  # of a large one it takes milliseconds
                await asyncio.to_thread(digest.update, piece)
            else:
                digest.update(piece)
            buffer += piece
            while len(buffer) >= chunk_bytes:
                await flush()
        if buffer or not count:
            await flush()
        return size, count, digest.hexdigest()

    async def _keep(
        self, caller: Caller, writing: PayloadRef, ref: PayloadRef, size: int, told: dict[str, str]
    ) -> FileTold:
        file_id = f"file_{uuid.uuid4().hex}"
        added: Added = await self._submitter.one(
            add_file(
                file_id,
                caller.owner,
                writing=writing,
                ref=ref,
                ttl_s=self._settings.file_ttl_s,
                size=size,
                most_bytes=self._settings.most_files_bytes,
                most_files=MOST_FILES,
                fields=told,
            )
        )
        if added.status == "full":
            raise self._full(added.bytes, added.files)
        if added.status == "gone":
            raise RequestTimeout("the upload took too long")
        times = {"created_at": from_ms(added.created_at), "expires_at": from_ms(added.expires_at)}
        return FileTold.model_validate({"id": file_id, "bytes": size, **told, **times})

    def _full(self, size: int, files: int) -> FilesFull:
        return FilesFull(
            f"{files} files with {size} bytes are there already; {MOST_FILES} with {self._settings.most_files_bytes} "
            "bytes are the most at a time: delete some, or wait until they expire"
        )

    async def find(self, file_ids: Sequence[str], caller: Caller) -> list[File | None]:
        """None: no such file, another's, or not to be used any more. One round trip."""
        calls = [Command("HGETALL", keys.FILE + (one if FILE_ID.fullmatch(one) else "")) for one in file_ids]
        clock = Command("TIME")
        *replies, time = await self._submitter.all(*calls, clock)
        now = int(time[0]) * 1000
        return [_file(one, reply, caller, now) for one, reply in zip(file_ids, replies, strict=True)]

    async def get(self, file_id: str, caller: Caller) -> File:
        """Raises UnknownFile, also for another's."""
        found = (await self.find([file_id], caller))[0]
        if found is None:
            raise UnknownFile
        return found

    async def delete(self, file_id: str, caller: Caller) -> None:
        """Nobody can use or read it any more. Jobs that were submitted with it still can; its bytes go with the last of
        them. Raises UnknownFile."""
        await self.get(file_id, caller)
        if not await self._submitter.one(delete_file(file_id)):
            raise UnknownFile


def _file(file_id: str, reply: dict[bytes, bytes], caller: Caller, now: int) -> File | None:
    record = {name.decode(): value.decode() for name, value in reply.items()}
    if not record or not caller.owns(record.get("owner")) or "deleted" in record:
        return None
    with readable():
        if int(record["expires_at"]) <= now:
            return None
        times = {name: from_ms(record[name]) for name in ("created_at", "expires_at")}
        told = {name: record[name] for name in ("bytes", "sha256", "content_type")}
        return File(FileTold.model_validate({"id": file_id, **told, **times}), PayloadRef.parse(record["ref"]))


def _too_large(most: int) -> str:
    return f"files of more than {most} bytes are not accepted"
