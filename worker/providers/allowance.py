"""What may be asked of a provider now: the rates of models.yaml, counted in Redis for all workers together."""

from __future__ import annotations

import time

import redis
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared import keys
from shared.providers import ProviderRate
from shared.rates import parse_rate
from worker.handler import TryLater

_SHORTEST_S = 0.05
_REDIS_AWAY_S = 1.0


class Allowance:
    """Any thread. Windows slide, as those of callers do (api/rates.py)."""

    def __init__(self, client: redis.Redis, source: str, rate: ProviderRate) -> None:
        storage = RedisStorage("redis://", key_prefix=keys.RATE, connection_pool=client.connection_pool)
        self._windows = SlidingWindowCounterRateLimiter(storage)
        self._source = source
        self._requests, self._tokens = _window(rate.requests), _window(rate.tokens)

    def take(self, tokens: int) -> None:
        """Count one call that will take about so many tokens. Raises TryLater: nothing may be asked yet (what was
        counted before it turned out stays so)."""
        try:
            self._take(self._requests, "requests", 1)
            self._take(self._tokens, "tokens", tokens)
        except redis.RedisError as error:
            raise TryLater(f"the rate cannot be counted: {error}", after_s=_REDIS_AWAY_S) from error

    def _take(self, window: RateLimitItem | None, unit: str, cost: int) -> None:
        if window is None:
            return
        name = ("provider", self._source, unit)
        # A call that no window holds goes alone in one, else it would wait for ever.
        if not self._windows.hit(window, *name, cost=min(cost, window.amount)):
            free_at = self._windows.get_window_stats(window, *name).reset_time
            told = f"the rate of {window.amount} {unit} in {window.get_expiry()} s for {self._source} is used up"
            raise TryLater(told, after_s=max(_SHORTEST_S, free_at - time.time()), code="rate_limited")


def _window(text: str | None) -> RateLimitItem | None:
    if text is None:
        return None
    rate = parse_rate(text)
    return RateLimitItemPerSecond(rate.amount, multiples=rate.window_s)
