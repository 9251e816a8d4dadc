"""Rate limits of keys, by the `limits` library on our Redis: a key's own, and those that a model sets for each key.

Windows slide (the library's sliding window counter: two counters a limit, whatever the cost), so no burst passes at the
edge of two. What is refused further on, by a full queue say, has been counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import redis.asyncio
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from api.auth import Caller
from api.submitter import refusal
from shared import keys
from shared.errors import RateLimited, TooLarge
from shared.model_spec import Limits
from shared.rates import Rates, parse_rate

OF_MODEL = "model_"  # begins the names of limits that a model sets for each key
_UNITS = {"bytes": "content-bytes"}  # of the draft; what it has no name for is told without one
_NOTHING: Mapping[str, int] = {}
_LONGEST_S = 60  # clients give up on more, or take it for an error


@dataclass(frozen=True, slots=True)
class _Limit:
    """`name` as the headers tell it, which clients parse as \\w+."""

    name: str
    unit: str
    item: RateLimitItem
    counted_for: tuple[str, ...]
    cost: int


class RateLimiter:
    """For one event loop."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=keys.RATE,
            connection_pool=client.connection_pool,  # type: ignore[arg-type]  # as its docs say
        )
        self._windows = SlidingWindowCounterRateLimiter(storage)

    async def admit(
        self,
        caller: Caller,
        model: str,
        limits: Limits,
        *,
        items: int,
        size: int,
        requests: int = 1,
        own: bool = True,
        before: Mapping[str, int] = _NOTHING,
    ) -> dict[str, str]:
        """Count a submit of `items` with `size` bytes of input; the headers that tell what is left. `own`: by the
        caller's own limits too. `before`: what was counted of the same request, by unit. Raises RateLimited, TooLarge
        for what no window holds, StoreUnavailable."""
        if caller.key is None:
            return {}
        costs = {"requests": requests, "items": items, "bytes": size}
        asked = list(_limits_of(limits.per_key, OF_MODEL, (caller.owner, model), costs))
        if own:
            asked = [*_limits_of(caller.key.limits, "", (caller.owner,), costs), *asked]
        if not asked:
            return {}
        for limit in asked:
            at_once = limit.cost + before.get(limit.unit, 0)
            if at_once > limit.item.amount:
                raise TooLarge(
                    f"{at_once} {limit.unit} at once are more than the limit {limit.name} of {limit.item.amount} in "
                    f"{limit.item.get_expiry()} s ever lets through"
                )
        try:
            over = [
                limit for limit in asked if not await self._windows.hit(limit.item, *limit.counted_for, cost=limit.cost)
            ]
            left = await asyncio.gather(
                *(self._windows.get_window_stats(limit.item, *limit.counted_for) for limit in asked)
            )
        except RedisError as error:
            raise refusal(error) from None
        now = time.time()
        told = [
            (limit, stats.remaining, max(1, math.ceil(stats.reset_time - now)))
            for limit, stats in zip(asked, left, strict=True)
        ]
        headers = {
            "RateLimit-Policy": ", ".join(_policy(limit) for limit in asked),
            "RateLimit": ", ".join(f'"{limit.name}";r={remaining};t={reset_s}' for limit, remaining, reset_s in told),
        }
        if over:
            wait_s = max(reset_s for limit, _, reset_s in told if limit in over)
            raise RateLimited(
                "; ".join(
                    f"over the limit {limit.name}: {limit.item.amount} {limit.unit} in {limit.item.get_expiry()} s"
                    for limit in over
                ),
                policies=[limit.name for limit in over],
                retry_after_s=min(_LONGEST_S, wait_s),
                headers=headers,
            )
        return headers


def _limits_of(rates: Rates, prefix: str, counted_for: tuple[str, ...], costs: Mapping[str, int]) -> Iterator[_Limit]:
    for unit, text in (("requests", rates.requests), ("items", rates.items), ("bytes", rates.bytes)):
        if text is not None and costs[unit]:
            rate = parse_rate(text)
            item = RateLimitItemPerSecond(rate.amount, multiples=rate.window_s)
            yield _Limit(prefix + unit, unit, item, (*counted_for, unit), costs[unit])


def _policy(limit: _Limit) -> str:
    unit = f';qu="{_UNITS[limit.unit]}"' if limit.unit in _UNITS else ""
    return f'"{limit.name}";q={limit.item.amount};w={limit.item.get_expiry()}{unit}'
