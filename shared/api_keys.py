"""API keys: who may call, and how much. A key's secret is shown once, at its making; Redis has its SHA-256 alone.

`ml:keys` is one hash: digest of the secret -> the key as JSON. Two digests may carry one id: while a key is rotated the
old secret works until its `expires_at`. The id owns the jobs, so it outlives its secrets. A plain SHA-256 is enough for
256 random bits: there is nothing to guess
(https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html is about passwords).
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.rates import Rates

PREFIX = "mls_"  # so that a secret scanner knows one when it sees it
_SECRET_BYTES = 32


class Scope(enum.StrEnum):
    """What a key may do. `admin` may all of it."""

    SUBMIT = "submit"
    READ = "read"
    METRICS = "metrics"
    ADMIN = "admin"


class ApiKey(BaseModel):
    """One key, without its secret. `models` None: all. `weight`: its share beside other keys where jobs wait."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(default_factory=lambda: f"key_{secrets.token_hex(8)}")
    name: str = Field(min_length=1, max_length=128)
    scopes: frozenset[Scope] = frozenset({Scope.SUBMIT, Scope.READ})
    models: frozenset[str] | None = None
    weight: int = Field(1, ge=1, le=100)
    limits: Rates = Rates()
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    expires_at: AwareDatetime | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has this scope, or may all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


def new_secret() -> str:
    """256 random bits, as a caller sends them."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest(secret: str) -> str:
    """What is stored of a secret, and looked up by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
