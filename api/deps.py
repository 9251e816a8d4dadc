"""What a handler works with, made once by `create_app`."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

import redis.asyncio
from fastapi import Request

from api.dead import DeadLetters
from api.disk import Disk
from api.jobs import JobService
from api.keys import KeyService
from api.measure import Measures
from api.pauses import Pauses
from api.periodic import Periodic
from api.presence import Presence
from api.purge import Purge
from api.rates import RateLimiter
from api.registry import LiveRegistry
from api.rollouts import Rollouts
from api.submitter import LOST, Submitter
from api.sweeper import Sweeper
from api.waiter import Waiter
from api.workers import WorkerService
from shared import keys
from shared.catalog import Catalog
from shared.errors import ConfigError, StoreUnavailable
from shared.registry_store import RegistryStore
from shared.settings import Settings
from shared.store import aconnect, connect, refuse_unfit


@dataclass(slots=True)
class Services:
    """One process's parts. Everything runs on one event loop."""

    settings: Settings
    catalog: Catalog
    registry: LiveRegistry
    client: redis.asyncio.Redis
    submitter: Submitter
    waiter: Waiter
    presence: Presence
    pauses: Pauses
    purge: Purge
    workers: WorkerService
    disk: Disk | None
    jobs: JobService
    dead: DeadLetters
    sweeper: Sweeper
    keys: KeyService
    auth: bool
    periodic: tuple[Periodic, ...]
    measures: Measures
    draining: bool = False
    started_at: int = field(default_factory=lambda: int(time.time()))

    async def check_store(self) -> None:
        """Raises StoreTooOld, or ConfigError for a server that cannot do what the settings ask. A Redis that does not
        answer yet is no reason not to start. The models file is taken in."""
        try:
            refuse_unfit(await self.client.info("server") | await self.client.info("cluster"))
            if self.disk is not None:
                await self.disk.check()
            await self.registry.start()
            if self.auth and not await self.keys.any():
                raise ConfigError(
                    "callers need an API key here, and there is none yet: make the first by "
                    "`python -m api keys create --name NAME --scope admin`, or switch keys off by ML_AUTH=off"
                )
        except (*LOST, StoreUnavailable):
            return

    def start(self) -> None:
        """Begin to listen and to sweep."""
        self.waiter.start()
        for one in self.periodic:
            one.start()

    def release(self) -> None:
        """The drain is over: who waits for an outcome, or for the disk, is answered now."""
        self.waiter.release()
        if self.disk is not None:
            self.disk.release()

    async def stop(self) -> None:
        """End what runs in the background."""
        for one in self.periodic:
            await one.stop()
        await self.waiter.stop()
        await self.submitter.close()
        self.registry.close()
        await self.client.aclose()


def make_services(settings: Settings, catalog: Catalog, *, auth: bool = False) -> Services:
    """Nothing is connected yet. `auth`: callers need a key."""
    client = aconnect(settings)
    submitter = Submitter(client)
    waiter = Waiter(client, submitter, keys.REPLY + uuid.uuid4().hex)
    presence = Presence(client, submitter, catalog)
    disk = Disk(client) if settings.durability == "fsync" else None
    registry = LiveRegistry(RegistryStore(connect(settings), Catalog(catalog.models)), submitter, catalog)
    pauses = Pauses(registry, submitter)
    measures = Measures()
    jobs = JobService(
        settings,
        registry,
        submitter,
        waiter,
        presence,
        pauses=pauses,
        rates=RateLimiter(client),
        disk=disk,
        waits=measures.waits,
    )
    dead = DeadLetters(settings, registry, client, submitter, disk=disk)
    sweeper = Sweeper(submitter, catalog, dead_ttl_s=settings.dead_ttl_s)
    rollouts = Rollouts(registry, presence, submitter, pauses)
    return Services(
        settings=settings,
        catalog=catalog,
        registry=registry,
        client=client,
        submitter=submitter,
        waiter=waiter,
        presence=presence,
        pauses=pauses,
        purge=Purge(registry, submitter),
        workers=WorkerService(presence, submitter),
        disk=disk,
        jobs=jobs,
        dead=dead,
        sweeper=sweeper,
        keys=KeyService(submitter),
        auth=auth,
        periodic=(Periodic("sweep", sweeper.step), Periodic("rollouts", rollouts.step)),
        measures=measures,
    )


def services(request: Request) -> Services:
    """Of the app that serves this request."""
    found: Services = request.app.state.services
    return found
