"""What may be asked of a provider now: the rates of models.yaml, counted in Redis for all workers together."""

from __future__ import annotations

import redis
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared import keys
from shared.providers import ProviderRate
from shared.rates import parse_rate
from worker.handler import NotYet

_SHORTEST_S = 0.05
_REDIS_AWAY_S = 1.0


class Allowance:
    """Any thread. Windows slide, as those of callers do (api/rates.py)."""

    def __init__(self, client: redis.Redis, source: tuple[str, ...], rate: ProviderRate) -> None:
        """`source`: whose rate it is."""
        self._client = client
        storage = RedisStorage("redis://", key_prefix=keys.RATE, connection_pool=client.connection_pool)
        self._windows = SlidingWindowCounterRateLimiter(storage)
        self._source = source
        self._requests, self._tokens = _window(rate.requests), _window(rate.tokens)

    def take(self, tokens: int) -> None:
        """Count one call that will take about so many tokens. Raises NotYet: nothing may be asked now."""
        try:
            self._look(self._tokens, "tokens", tokens)  # or a refused try would count among the requests
            self._take(self._requests, "requests", 1)
            self._take(self._tokens, "tokens", tokens)
        except redis.RedisError as error:
            raise NotYet(f"the rate cannot be counted: {error}", after_s=_REDIS_AWAY_S) from error

    def close(self) -> None:
        """Its connections."""
        self._client.close()

    def _look(self, window: RateLimitItem | None, unit: str, cost: int) -> None:
        if window is not None and not self._windows.test(window, *self._name(unit), cost=_fitting(window, cost)):
            raise self._not_yet(window, unit, cost)

    def _take(self, window: RateLimitItem | None, unit: str, cost: int) -> None:
        if window is not None and not self._windows.hit(window, *self._name(unit), cost=_fitting(window, cost)):
            raise self._not_yet(window, unit, cost)

    def _name(self, unit: str) -> tuple[str, ...]:
        return ("provider", *self._source, unit)

    def _not_yet(self, window: RateLimitItem, unit: str, cost: int) -> NotYet:
        per = window.get_expiry()
        told = f"the rate of {window.amount} {unit} in {per} s for {self._source[0]} is used up"
        wait_s = _fitting(window, cost) * per / window.amount  # so long it takes until as much is free again
        return NotYet(told, after_s=max(_SHORTEST_S, wait_s), code="rate_limited")


def _fitting(window: RateLimitItem, cost: int) -> int:
    """Half of a window at most: more would never fit beside others."""
    return min(cost, max(1, window.amount // 2))


def _window(text: str | None) -> RateLimitItem | None:
    if text is None:
        return None
    rate = parse_rate(text)
    return RateLimitItemPerSecond(rate.amount, multiples=rate.window_s)
