"""The loop that delivers. Any number of processes may run it: each takes what is due under a lease, so what one that
was killed had in its hands another delivers.

At least once: a receiver whose answer is lost, with its process or its connection, gets the event again, with the same
`webhook-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import redis.asyncio

from api import VERSION
from api.deliver.bodies import Bodies
from api.deliver.judge import Verdict, judge_answer, judge_failure
from api.deliver.secrets import WebhookSecrets, sign
from api.submitter import Submitter
from api.subscription import hear_forever
from shared import keys, origin, trace_context, tracing
from shared.errors import AddressRefused, CallFailed, RecordUnreadable, StoreUnavailable, UnknownBatch, UnknownJob
from shared.logs import Event, get_logger
from shared.origin import Origin
from shared.outbound import Outbound
from shared.scripts_webhooks import Due, Taken, deliver, delivered
from shared.settings import Settings

logger = get_logger("api")

_POLL_S = 5.0  # should the news of one that is due be lost
_RETRY_S = 1.0  # Redis is away
_LEASE_MORE_S = 5.0  # beyond the timeout of an attempt, to report it
_MOST_ANSWER = 4096  # bytes of an answer that are read, and dropped
_MOST_SLOW = 1000


class Deliverer:
    """For one event loop. `outbound` makes what calls, at the first delivery, in a thread: it imports httpx and reads
    the authorities."""

    def __init__(
        self,
        settings: Settings,
        client: redis.asyncio.Redis,
        submitter: Submitter,
        bodies: Bodies,
        secrets: WebhookSecrets,
        *,
        outbound: Callable[[], Outbound] | None = None,
    ) -> None:
        self._settings, self._client, self._submitter = settings, client, submitter
        self._bodies, self._secrets = bodies, secrets
        self._make = outbound or (lambda: Outbound(settings.outbound_rules()))
        self._outbound: Outbound | None = None
        self._lease_s = settings.webhook_timeout_s + _LEASE_MORE_S
        self._in_hand: dict[asyncio.Task[None], str] = {}  # its host
        self._slow: set[str] = set()  # hosts that get one delivery at a time, until they answer quickly again
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Deliver in the background, through every loss of Redis."""
        listening = hear_forever(
            self._client,
            keys.WEBHOOKS,
            lambda _: self._news.set(),
            subscribed=self._news.set,
            part="deliver",
            retry_s=_RETRY_S,
        )
        self._tasks = [asyncio.create_task(listening), asyncio.create_task(self._deliver_forever())]

    def drain(self) -> None:
        """Take no more."""
        self._stopping = True
        self._news.set()

    async def stop(self, *, within_s: float) -> None:
        """Returns when what is in hand is delivered, or within about this time: the rest is given back."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=within_s)
        for task in self._in_hand:
            task.cancel()
        await asyncio.gather(*self._in_hand, return_exceptions=True)
        if self._outbound is not None:
            await self._outbound.close()

    async def _deliver_forever(self) -> None:
        while not self._stopping:
            self._news.clear()
            try:
                wait_s = await self._take()
            except StoreUnavailable:
                wait_s = _RETRY_S
            except Exception as error:
                logger.error(Event.TASK_FAILED, exc_info=error, task="deliver")
                wait_s = _RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_s)

    async def _take(self) -> float:
        """How long to wait before the next look, if there is no news."""
        room = self._settings.webhook_concurrency - len(self._in_hand)
        if room <= 0:
            return _POLL_S  # one that ends is news
        each = self._settings.webhook_host_concurrency
        busy = Counter(self._in_hand.values())
        rooms = {host: (1 if host in self._slow else each) - busy[host] for host in busy.keys() | self._slow}
        call = deliver(
            lease_ms=int(self._lease_s * 1000),
            most=room,
            of_one_host=each,
            holder=uuid.uuid4().hex,
            rooms={host: max(0, free) for host, free in rooms.items()},
        )
        due: Due = await self._submitter.one(call)
        if due.taken and self._outbound is None:
            self._outbound = await asyncio.to_thread(self._make)
        for one in due.taken:
            task = asyncio.create_task(self._deliver(one))
            self._in_hand[task] = one.host
            task.add_done_callback(self._done)
        return _POLL_S if due.wait_ms is None else min(_POLL_S, due.wait_ms / 1000)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        self._news.set()

    async def _deliver(self, taken: Taken) -> None:
        """One attempt, and its report."""
        origin.begin(Origin(taken.request_id, taken.of if taken.kind == "job" else ""))
        begun, body = time.monotonic(), taken.body
        try:
            if not body:
                body = await self._bodies.compose(taken)
            verdict = await self._attempt(taken, body)
        except (StoreUnavailable, asyncio.CancelledError):  # Redis is away, or this process ends
            verdict = Verdict("back", wait_s=_RETRY_S)
        except (UnknownJob, UnknownBatch, RecordUnreadable) as error:
            verdict = Verdict("failed", error=error.message)
        except Exception as error:
            logger.error(Event.TASK_FAILED, exc_info=error, task="deliver")
            verdict = self._failure(taken, "an error of the service")
        await self._report(taken, verdict, body, time.monotonic() - begun, begun + self._lease_s)

    async def _attempt(self, taken: Taken, body: bytes) -> Verdict:
        assert self._outbound is not None  # noqa: S101 - there is one before the first is taken
        at, secrets = datetime.now(UTC), await self._secrets.signing(taken.owner)
        parent = trace_context.parse(taken.traceparent, taken.tracestate)
        attributes = {"http.request.method": "POST", "server.address": taken.host, "ml.delivery_id": taken.id}
        span, begun = tracing.start("deliver webhook", "CLIENT", parent=parent, attributes=attributes), time.monotonic()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ml-service/{VERSION}",
            "webhook-id": taken.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": sign(secrets, taken.id, at, body),
            **(span.context.headers() if span.context else {}),
        }
        try:
            answer = await self._outbound.call(
                "POST",
                taken.url,
                content=body,
                headers=headers,
                timeout_s=self._settings.webhook_timeout_s,
                max_bytes=_MOST_ANSWER,
                whole=False,
            )
            span.set({"http.response.status_code": answer.status})
        except (AddressRefused, CallFailed) as error:
            span.fail(error.code)
            return self._failure(taken, error.message)
        finally:
            span.end()
            self._judge_host(taken.host, time.monotonic() - begun)
        schedule = self._settings.webhook_delays()
        return judge_answer(answer.status, answer.headers, tries=taken.tries, schedule=schedule)

    def _failure(self, taken: Taken, error: str) -> Verdict:
        return judge_failure(error, tries=taken.tries, schedule=self._settings.webhook_delays())

    def _judge_host(self, host: str, took_s: float) -> None:
        if took_s < self._settings.webhook_timeout_s / 2:
            self._slow.discard(host)
            return
        if len(self._slow) >= _MOST_SLOW:
            self._slow.clear()
        self._slow.add(host)

    async def _report(self, taken: Taken, verdict: Verdict, body: bytes, took_s: float, lease_end: float) -> None:
        """Until Redis has it, or the lease is over: then it is delivered again."""
        call = delivered(
            taken,
            verdict.came,
            status=verdict.status,
            error=verdict.error,
            ms=int(took_s * 1000),
            wait_ms=int(verdict.wait_s * 1000),
            body=body,
        )
        told = {"delivery": taken.id, "host": taken.host, "status": verdict.status}
        if verdict.came == "delivered":
            logger.debug(Event.WEBHOOK_DELIVERED, **told)
        elif verdict.came == "disabled":
            logger.warning(Event.WEBHOOK_DISABLED, **told)
        elif verdict.came == "failed":
            logger.warning(Event.WEBHOOK_GIVEN_UP, **told, error=verdict.error)
        elif verdict.came == "retry":
            logger.info(Event.WEBHOOK_FAILED, **told, error=verdict.error, tries=taken.tries + 1)
        while True:
            try:
                await self._submitter.one(call)
                return
            except StoreUnavailable:
                if self._stopping or time.monotonic() > lease_end:
                    return
                await asyncio.sleep(_RETRY_S)
