"""The registry in Redis: read it, change it, and put it there. Calls block; the API makes them in a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
import redis
from pydantic import ValidationError

from shared import keys, scripts
from shared.catalog import Catalog
from shared.errors import ConfigError, RegistryChanged, VersionExists
from shared.logs import Event, get_logger
from shared.registry import Registry

logger = get_logger("registry")


class RegistryStore:
    """`file` is the models file that this process was given. Methods raise redis errors, and ConfigError for
    a document that this release cannot read. Any thread."""

    def __init__(self, client: redis.Redis, file: Catalog) -> None:
        self._client, self._file = client, file
        self._digest = _digest(file)

    def close(self) -> None:
        """No more calls."""
        self._client.close()

    def read(self, known: Registry | None = None) -> Registry:
        """As it stands. Where there is none, Redis has lost it or never had it: `known` is put back, or else the models
        file is taken in."""
        found = self._read()
        if found is not None:
            return found
        if known is not None:
            logger.warning(Event.REGISTRY_CHANGED, why="Redis had lost it", generation=known.generation)
            return self.change(lambda now: now if now.etag else known)
        return self.seed()

    def change(self, how: Callable[[Registry], Registry], *, seen: str | None = None) -> Registry:
        """What `how` makes of it, and stands then. `how` may be called again, when another was quicker. Raises what
        `how` raises, and RegistryChanged when `seen` is given and is not its etag."""
        while True:
            now = self._read() or Registry()
            if seen is not None and now.etag != seen:
                raise RegistryChanged(f"the models have changed: they are at {now.etag or 'none'}, not {seen}")
            then = how(now)
            if then is now:
                return now
            then = then.stamped()
            document = then.model_dump_json(exclude_defaults=True).encode()
            if scripts.one(scripts.run(self._client, [scripts.register(now.etag, then.etag, document)])):
                logger.info(Event.REGISTRY_CHANGED, generation=then.generation, models=sorted(then.models))
                return then

    def seed(self, *, exact: bool = False, outright: bool = False) -> Registry:
        """Take the models file in, if its contents have not been yet: what it names is added or changed, nothing goes.
        While no worker lives it is so at once, and an older file is taken in again: what was a mistake is taken back
        by starting anew. Else it is a rollout, and a file that changes what a version is while workers run it is not
        taken in: that is logged, and what stands stays. `exact`: its models and no others, also where an older file
        comes again; `outright`: at once, whoever lives."""
        now = self._read() or Registry()
        outright = outright or not self._served()

        def how(registry: Registry) -> Registry:
            known = registry.files[-1:] if exact or outright else registry.files
            if self._digest in known:
                return registry
            return registry.with_models(self._file.models, exact=exact, outright=outright).knowing(self._digest)

        try:
            return now if how(now) is now else self.change(how)
        except VersionExists as error:
            logger.warning(Event.REGISTRY_CHANGED, why="the models file is not taken in", error=error.message)
            return now

    def _read(self) -> Registry | None:
        document: Any = self._client.hget(keys.REGISTRY, "document")
        try:
            return None if document is None else Registry.model_validate_json(document)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise ConfigError(
                f"{keys.REGISTRY} in Redis holds what this release cannot read: {place}: {fault['msg']}"
            ) from None

    def _served(self) -> bool:
        """Whether any worker lives that has loaded what it serves."""
        processes: Any = self._client.zrange(keys.WORKERS, 0, -1)
        if not processes:
            return False
        signs: Any = self._client.mget([keys.WORKER + process.decode() for process in processes])
        return any(orjson.loads(sign).get("state") != "failed" for sign in signs if sign)


def _digest(file: Catalog) -> str:
    text = orjson.dumps({name: spec.model_dump(mode="json") for name, spec in file.models.items()})
    return hashlib.sha256(text).hexdigest()[:16]
