"""What a handler works with, made once by `create_app`."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from dataclasses import dataclass, field

import redis.asyncio
from fastapi import Request

from api.batch_upload import Uploads
from api.batches import BatchService
from api.dead import DeadLetters
from api.deliver.bodies import Bodies
from api.deliver.loop import Deliverer
from api.deliver.secrets import WebhookSecrets
from api.deliveries import DeliveryService
from api.disk import Disk
from api.durable import Durable
from api.fallback import Fallbacks
from api.files import FileService
from api.intake import Intake
from api.jobs import JobService
from api.keys import KeyService
from api.listing import JobList
from api.measure import Measures
from api.pauses import Pauses
from api.payloads import ApiPayloads
from api.periodic import Periodic
from api.presence import Presence
from api.purge import Purge
from api.rates import RateLimiter
from api.reaper import Reaper
from api.references import References
from api.registry import LiveRegistry
from api.replica import Replica
from api.rollouts import Rollouts
from api.submitter import LOST, Submitter
from api.sweeper import Sweeper
from api.waiter import Waiter
from api.workers import WorkerService
from shared import keys
from shared.addresses import Rules
from shared.catalog import Catalog
from shared.errors import ConfigError, PayloadsUnavailable, StoreUnavailable
from shared.outbound import Outbound
from shared.payload_store import Payloads
from shared.registry_store import RegistryStore
from shared.settings import Settings
from shared.store import acheck_server, aconnect, connect

_DELIVER_S = 5.0  # at the end, for webhooks in hand


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
    durable: Durable | None
    payloads: ApiPayloads
    files: FileService
    outbound: Outbound | None
    jobs: JobService
    listing: JobList
    uploads: Uploads
    batches: BatchService
    dead: DeadLetters
    keys: KeyService
    auth: bool
    periodic: tuple[Periodic, ...]
    measures: Measures
    deliverer: Deliverer | None
    deliveries: DeliveryService
    webhook_secrets: WebhookSecrets
    draining: bool = False
    started_at: int = field(default_factory=lambda: int(time.time()))

    async def check_store(self) -> None:
        """Raises StoreTooOld, or ConfigError for a server that cannot do what the settings ask. A Redis or a payload
        store that does not answer yet is no reason not to start. The models file is taken in."""
        with contextlib.suppress(PayloadsUnavailable):
            await asyncio.to_thread(self.payloads.store.check)
        try:
            await acheck_server(self.client)
            if self.durable is not None:
                await self.durable.check()
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
        if self.deliverer is not None:
            self.deliverer.start()

    def drain(self) -> None:
        """The process ends when the calls in hand are answered. It takes nothing new; who only follows a job can do so
        elsewhere."""
        self.draining = True
        self.waiter.let_go()
        if self.deliverer is not None:
            self.deliverer.drain()

    def release(self) -> None:
        """The drain is over: who waits for an outcome, or for its job to be safe, is answered now."""
        self.waiter.release()
        if self.durable is not None:
            self.durable.release()

    async def stop(self) -> None:
        """End what runs in the background."""
        for one in self.periodic:
            await one.stop()
        if self.deliverer is not None:
            await self.deliverer.stop(within_s=_DELIVER_S)
        await self.waiter.stop()
        await self.uploads.close()
        await self.submitter.close()
        self.registry.close()
        self.payloads.close()
        if self.outbound is not None:
            await self.outbound.close()
        await self.client.aclose()


def make_services(settings: Settings, catalog: Catalog, *, auth: bool = False) -> Services:
    """Nothing is connected yet. `auth`: callers need a key."""
    client = aconnect(settings)
    submitter = Submitter(client)
    waiter = Waiter(client, submitter, keys.REPLY + uuid.uuid4().hex)
    presence = Presence(client, submitter, catalog)
    durable = _durable(settings, client)
    registry = LiveRegistry(RegistryStore(connect(settings), Catalog(catalog.models)), submitter, catalog)
    payloads = ApiPayloads(settings, Payloads(settings, connect(settings)), submitter)
    files = FileService(settings, submitter, payloads)
    outbound = _outbound(settings)
    pauses = Pauses(registry, submitter)
    measures = Measures()
    rates = RateLimiter(client)
    intake = Intake(settings, References(settings, files, payloads, outbound))
    uploads = Uploads(settings, registry, submitter, presence, rates=rates, intake=intake, payloads=payloads)
    batches = BatchService(submitter, waiter, uploads, payloads=payloads, durable=durable, accepted=measures.batches)
    jobs = JobService(
        settings,
        registry,
        submitter,
        waiter,
        presence,
        pauses=pauses,
        fallbacks=Fallbacks(registry.catalog, presence, pauses, measures.fallbacks),
        rates=rates,
        intake=intake,
        payloads=payloads,
        durable=durable,
        waits=measures.waits,
        accepted=measures.accepted,
        lines=batches.line,
    )
    dead = DeadLetters(
        settings, registry, client, submitter, payloads=payloads, durable=durable, accepted=measures.accepted
    )
    sweeper = Sweeper(submitter, catalog, dead_ttl_s=settings.dead_ttl_s)
    rollouts = Rollouts(registry, presence, submitter, pauses)
    secrets = WebhookSecrets(submitter)
    bodies = Bodies(submitter, most=settings.webhook_output_bytes)
    deliverer = Deliverer(settings, client, submitter, bodies, secrets) if settings.webhook_delivery == "api" else None
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
        durable=durable,
        payloads=payloads,
        files=files,
        outbound=outbound,
        jobs=jobs,
        listing=JobList(submitter, presence, pauses),
        uploads=uploads,
        batches=batches,
        dead=dead,
        keys=KeyService(submitter),
        auth=auth,
        periodic=(
            Periodic("sweep", sweeper.step),
            Periodic("rollouts", rollouts.step),
            Periodic("payloads", Reaper(submitter, payloads).step),
            Periodic("batches", batches.step),
        ),
        measures=measures,
        deliverer=deliverer,
        deliveries=DeliveryService(submitter),
        webhook_secrets=secrets,
    )


def _durable(settings: Settings, client: redis.asyncio.Redis) -> Durable | None:
    if settings.durability == "replica":
        return Replica(client, settings.replicas)
    return Disk(client) if settings.durability == "fsync" else None


def _outbound(settings: Settings) -> Outbound | None:
    if settings.input_urls == "off":
        return None
    return Outbound(Rules.parse(settings.outbound_allow, https_only=settings.outbound_https_only))


def services(request: Request) -> Services:
    """Of the app that serves this request."""
    found: Services = request.app.state.services
    return found
