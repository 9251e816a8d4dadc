"""The API keys of the chaos: its callers' jobs are those of three keys, so that they take turns and lie in lanes."""

from __future__ import annotations

import redis

from shared import keys
from shared.api_keys import ApiKey, Scope, digest

_CALLERS = 3
_SECRETS = {f"key_{n}": f"chaos-{n}" for n in range(_CALLERS)} | {"key_admin": "chaos-admin"}
ADMIN = {"Authorization": f"Bearer {_SECRETS['key_admin']}"}


def of_job(n: int) -> dict[str, str]:
    """The headers of all calls about job `n`."""
    return {"Authorization": f"Bearer {_SECRETS[f'key_{n % _CALLERS}']}"}


def make_keys(client: redis.Redis) -> None:
    """As `keys create` does, with secrets that are known."""
    for name, secret in _SECRETS.items():
        scopes = frozenset({Scope.ADMIN if name == "key_admin" else Scope.SUBMIT, Scope.READ})
        client.hset(keys.KEYS, digest(secret), ApiKey(id=name, name=name, scopes=scopes).model_dump_json())
