"""The scripts of the payload store and of files. See shared/scripts.py and shared/lua/stored.lua."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.calls import Call, script
from shared.payload_place import PayloadRef


def stash(refs: Sequence[PayloadRef], grace_s: float) -> Call[None]:
    """Before their objects are written, and again while they are: whatever becomes of the writer, they go then."""
    return Call(script("stash"), (), [int(grace_s * 1000), *map(str, refs)], lambda _: None)


def free(refs: Sequence[PayloadRef]) -> Call[None]:
    """They belong to no job, and go now."""
    return Call(script("free"), (), [str(ref) for ref in refs], lambda _: None)


def reap(*, limit: int, again_s: float) -> Call[list[str]]:
    """References whose objects are to be deleted; who has done so says it by ZREM of DOOMED. Nobody else gets them
    within `again_s`."""
    return Call(script("reap"), (), [limit, int(again_s * 1000)], lambda reply: [ref.decode() for ref in reply])


@dataclass(frozen=True, slots=True)
class Added:
    """`status` full: the owner has `bytes` in `files` already; gone: the upload took too long."""

    status: Literal["added", "full", "gone"]
    created_at: int = 0
    expires_at: int = 0
    bytes: int = 0
    files: int = 0


def add_file(
    file_id: str,
    owner: str,
    *,
    writing: PayloadRef,
    ref: PayloadRef,
    ttl_s: float,
    size: int,
    most_bytes: int,
    most_files: int,
    fields: dict[str, str],
) -> Call[Added]:
    """An upload is complete. It was written under `writing`; `ref` has the true count of its objects. `fields`: of its
    record, beside owner, ref, bytes and times."""
    what = (file_id, owner, str(writing), str(ref), int(ttl_s * 1000), size, most_bytes, most_files)
    return Call(script("file_add"), (), (*what, *(part for item in fields.items() for part in item)), _added)


def _added(reply: list[Any]) -> Added:
    status = reply[0].decode()
    if status == "added":
        return Added("added", created_at=int(reply[1]), expires_at=int(reply[2]))
    return Added("full", bytes=reply[1], files=reply[2]) if status == "full" else Added("gone")


def file_room(owner: str) -> Call[tuple[int, int]]:
    """Bytes and number of the files that an owner has."""
    return Call(script("file_room"), (), [owner], lambda reply: (reply[0], reply[1]))


def delete_file(file_id: str) -> Call[bool]:
    """Nobody may use or read it from now on; its objects go with the last job that uses it. False: no such file."""
    return Call(script("file_delete"), (), [file_id], bool)
