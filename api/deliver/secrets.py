"""What webhooks are signed with: a secret for each key, made at its first use, and for a while those before it.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md (symmetric signatures)

Redis holds the secrets themselves: an HMAC needs them.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from standardwebhooks import Webhook

from api.submitter import Command, Submitter
from shared import keys
from shared.errors import RecordUnreadable
from shared.scripts_webhooks import resecret

_BYTES = 32
_MOST_OLD = 4  # signatures beside the newest, should somebody rotate again and again


class OldSecret(BaseModel):
    """Signs until its time is over."""

    model_config = ConfigDict(frozen=True)

    secret: str
    until: AwareDatetime


class Secrets(BaseModel):
    """Of one owner."""

    model_config = ConfigDict(frozen=True)

    secret: str
    previous: tuple[OldSecret, ...] = ()

    def living(self, now: datetime) -> tuple[OldSecret, ...]:
        """The old ones whose time is not over."""
        return tuple(one for one in self.previous if one.until > now)


class WebhookSecrets:
    """For one event loop. All methods raise StoreUnavailable, and RecordUnreadable for what is not ours."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    async def of(self, owner: str) -> Secrets:
        """Made now, if there are none."""
        while True:
            seen = await self._read(owner)
            if seen:
                return _parsed(seen)
            made = Secrets(secret=_new_secret())
            if await self._submitter.one(resecret(owner, b"", made.model_dump_json().encode())):
                return made

    async def rotate(self, owner: str, *, grace_s: float) -> Secrets:
        """A new one; the old ones sign beside it for `grace_s` more."""
        while True:
            seen = await self._read(owner)
            now = datetime.now(UTC)
            end = now + timedelta(seconds=grace_s)
            old: list[OldSecret] = []
            if seen:
                known = _parsed(seen)
                old = [OldSecret(secret=known.secret, until=end)]
                old += [OldSecret(secret=one.secret, until=min(one.until, end)) for one in known.living(now)]
            living = tuple(one for one in old[:_MOST_OLD] if one.until > now)
            made = Secrets(secret=_new_secret(), previous=living)
            if await self._submitter.one(resecret(owner, seen, made.model_dump_json().encode())):
                return made

    async def signing(self, owner: str) -> list[str]:
        """All that sign now, the newest first."""
        found = await self.of(owner)
        return [found.secret, *(one.secret for one in found.living(datetime.now(UTC)))]

    async def _read(self, owner: str) -> bytes:
        return await self._submitter.one(Command("HGET", keys.HOOK_SECRETS, owner)) or b""


def sign(secrets_: Sequence[str], delivery: str, at: datetime, body: bytes) -> str:
    """The header `webhook-signature` of these bytes: a signature for each secret."""
    return " ".join(Webhook(secret).sign(delivery, at, body.decode()) for secret in secrets_)


def _parsed(stored: bytes) -> Secrets:
    try:
        return Secrets.model_validate_json(stored)
    except ValidationError:
        raise RecordUnreadable("what webhooks are signed with is not what this service writes") from None


def _new_secret() -> str:
    # Standard base64: some libraries split what they are given at "_".
    return "whsec_" + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
