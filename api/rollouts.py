"""Rollouts: when workers have what callers are to get, the traffic switches; when the jobs of a version that nobody can
ask for any more have ended, it goes. Any API process does it, whichever comes first."""

from __future__ import annotations

from functools import partial
from typing import Any

from api.pauses import Pauses
from api.presence import Presence, Workers
from api.registry import LiveRegistry
from api.schemas import Rollout, RolloutFailure
from api.submitter import Command, Submitter
from shared import keys
from shared.catalog import takes
from shared.errors import StoreUnavailable
from shared.logs import Event, get_logger
from shared.model_spec import VersionSpec
from shared.registry import Entry, Registry, ref_of

logger = get_logger("api")


class Rollouts:
    """For one event loop."""

    def __init__(self, registry: LiveRegistry, presence: Presence, submitter: Submitter, pauses: Pauses) -> None:
        self._registry, self._presence, self._submitter, self._pauses = registry, presence, submitter, pauses

    async def step(self) -> None:
        """Follow the registry, and do what is due. Without Redis nothing is."""
        try:
            registry = await self._registry.refresh()
            if any(entry.rolling for entry in registry.models.values()):
                await self._switch(registry, await self._presence.workers())
            if registry.retiring:
                await self._retire(list(registry.retiring))
        except StoreUnavailable:
            return

    async def _switch(self, registry: Registry, workers: Workers) -> None:
        for name, entry in list(registry.models.items()):
            if not entry.rolling or rollout(name, entry, workers).state != "ready":
                continue

            before = registry.generation
            registry = await self._registry.change(partial(_switched, name=name, entry=entry))
            if registry.generation > before:
                logger.info(Event.TRAFFIC_SWITCHED, model=name, generation=registry.generation)

    async def _retire(self, refs: list[str]) -> None:
        """A job accepted before the switch is counted until it ends, and since then none was accepted."""
        done = [ref for ref in refs if await self._idle(ref)]
        if done:
            after = await self._registry.change(lambda now: now.retired(done))
            logger.info(Event.VERSION_RETIRED, models=done)
            gone = [ref for ref in done if ref_of(ref) not in after.wanted()]
            if gone:
                await self._submitter.run(Command("DEL", *(keys.COUNTERS + ref for ref in gone)))
            for model in {ref_of(ref).model for ref in gone} - {ref.model for ref in after.wanted()}:
                await self._pauses.forget(model)

    async def _idle(self, name: str) -> bool:
        ref = ref_of(name)
        queue = keys.queue_name(ref.model, ref.version)
        batches = Command("SCARD", keys.BATCHES_ON + name)
        counted = Command("HMGET", keys.COUNTERS + name, "queued", "running", "delayed")
        lengths = [Command("LLEN", keys.queue_list(queue, priority)) for priority in keys.PRIORITIES]
        replies: list[Any] = await self._submitter.run(counted, batches, *lengths)
        if any(isinstance(reply, Exception) for reply in replies):
            return False
        return not any(replies[1:]) and not any(int(number or 0) for number in replies[0])


def _switched(now: Registry, *, name: str, entry: Entry) -> Registry:
    return now.switched(name) if now.models.get(name) == entry else now


def _takers(model: str, version: VersionSpec, workers: Workers) -> set[str]:
    return {worker["worker"] for worker in workers.workers if takes(worker.get("serves") or (), model, version)}


def rollout(model: str, entry: Entry, workers: Workers) -> Rollout:
    """How far workers are with what callers of this model are to get. Enough is: every living worker that takes this
    model has loaded every coming version; of a lazy model one worker, for a proof that it loads."""
    coming = entry.coming() or list(entry.spec.versions)
    by_version = {version: _takers(model, entry.spec.versions[version], workers) for version in coming}
    takers = set().union(*by_version.values())
    having: set[str] = set(takers)
    any_has = all(by_version.values())
    failures = []
    for version in entry.coming():
        build, has = entry.spec.build(version), set()
        for card in workers.cards.get(f"{model}@{version}", ()):
            for told in (card, card.get("coming") or {}):
                if told.get("build") != build:
                    continue
                if told.get("loaded"):
                    has.add(card["worker"])
                elif told.get("error"):
                    failures.append(RolloutFailure(version=version, worker=card["worker"], error=told["error"]))
        having &= has | (takers - by_version[version])
        any_has = any_has and bool(has)
    if not all(by_version.values()):
        state = "no_worker"
    elif any_has if entry.spec.load == "lazy" else len(having) == len(takers):
        state = "ready"
    else:
        state = "failed" if failures else "loading"
    return Rollout(
        model=model,
        state=state,
        versions=entry.coming(),
        workers=len(takers),
        ready=len(having),
        failures=failures,
    )
