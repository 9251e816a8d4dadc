"""API keys as operators see them: made, listed, rotated, revoked; and what each has used."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from api.submitter import Command, Submitter
from shared import keys
from shared.api_keys import ApiKey, digest, new_secret
from shared.errors import UnknownKey


@dataclass(frozen=True, slots=True)
class Made:
    """A key with its secret, which nobody can read again."""

    key: ApiKey
    secret: str


class KeyService:
    """For one event loop. All methods raise StoreUnavailable."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    async def any(self) -> bool:
        """Whether there is a key at all, expired or not."""
        return bool(await self._submitter.one(Command("HLEN", keys.KEYS)))

    async def create(self, key: ApiKey) -> Made:
        """A secret for a new key."""
        secret = new_secret()
        await self._submitter.one(Command("HSET", keys.KEYS, digest(secret), key.model_dump_json()))
        return Made(key, secret)

    async def all(self) -> list[ApiKey]:
        """By age. One that is being rotated is told once, as its newest secret has it."""
        newest: dict[str, ApiKey] = {}
        for key in (await self._stored()).values():
            known = newest.get(key.id)
            if known is None or _lives_longer(key, known):
                newest[key.id] = key
        return sorted(newest.values(), key=lambda key: key.created_at)

    async def rotate(self, key_id: str, *, grace_s: float, expires_at: datetime | None = None) -> Made:
        """A new secret for the same key; the old ones work for `grace_s` more. `expires_at` of the new one; None: as
        the key had. Raises UnknownKey."""
        mine = {name: key for name, key in (await self._stored()).items() if key.id == key_id}
        if not mine:
            raise UnknownKey
        now = datetime.now(UTC)
        end = now + timedelta(seconds=grace_s)
        latest = next(key for key in mine.values() if all(not _lives_longer(other, key) for other in mine.values()))
        fresh, secret = latest.model_copy(update={"expires_at": expires_at or latest.expires_at}), new_secret()
        words = [digest(secret), fresh.model_dump_json()]
        for name, key in mine.items():
            if key.expires_at is None or key.expires_at > end:
                words += [name, key.model_copy(update={"expires_at": end}).model_dump_json()]
        await self._submitter.one(Command("HSET", keys.KEYS, *words))
        if over := [name for name, key in mine.items() if key.expired(now)]:
            await self._submitter.one(Command("HDEL", keys.KEYS, *over))
        return Made(fresh, secret)

    async def revoke(self, key_id: str) -> None:
        """It opens nothing any more, within a second. Its jobs go on, and nobody can read them. Raises UnknownKey."""
        mine = [name for name, key in (await self._stored()).items() if key.id == key_id]
        if not mine:
            raise UnknownKey
        await self._submitter.one(Command("HDEL", keys.KEYS, *mine))

    async def usage(self, key_id: str, first: date, last: date) -> list[dict[str, Any]]:
        """What workers did for it, by day (UTC) and version, from `first` to `last`: jobs, items, tokens, device
        seconds. Days without any are left out."""
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        commands = [Command("HGETALL", f"{keys.USAGE}{key_id}:{_number(day)}") for day in days]
        found = []
        for day, reply in zip(days, await self._submitter.all(*commands), strict=True):
            used: dict[str, dict[str, int]] = defaultdict(dict)
            for field, count in _texts(reply).items():
                ref, _, what = field.rpartition(" ")
                used[ref][what] = int(count)
            found += [_entry(day, ref, counts) for ref, counts in sorted(used.items())]
        return found

    async def _stored(self) -> dict[str, ApiKey]:
        stored = {}
        for name, raw in _texts(await self._submitter.one(Command("HGETALL", keys.KEYS))).items():
            try:
                stored[name] = ApiKey.model_validate_json(raw)
            except ValidationError:
                continue  # of a newer release, or a hand's: it opens nothing
        return stored


def today() -> date:
    """In UTC."""
    return datetime.fromtimestamp(time.time(), UTC).date()


def _lives_longer(one: ApiKey, other: ApiKey) -> bool:
    if one.expires_at is None or other.expires_at is None:
        return one.expires_at is None and other.expires_at is not None
    return one.expires_at > other.expires_at


def _number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def _texts(reply: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in reply.items()}


def _entry(day: date, ref: str, counts: dict[str, int]) -> dict[str, Any]:
    model, _, version = ref.partition("@")
    return {
        "day": day.isoformat(),
        "model": model,
        "version": version,
        "jobs": counts.get("jobs", 0),
        "items": counts.get("items", 0),
        "tokens": counts.get("tokens", 0),
        "device_s": counts.get("device_us", 0) / 1e6,
    }
