"""Where the service is, who asks, and how patient."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from ml_service_client.core.retries import Policy
from ml_service_client.core.steps import Request

HERE = "http://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=5.0)


@dataclass(frozen=True, slots=True)
class Config:
    """What both clients are made of."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout
    policy: Policy

    def having(self, timeout: float | httpx.Timeout | None, retries: int | None) -> Config:
        """The same with other patience."""
        return Config(
            self.base_url,
            self.headers,
            self.timeout if timeout is None else _patience(timeout),
            self.policy if retries is None else _policy(retries),
        )

    @property
    def limits(self) -> httpx.Limits:
        """Of the connection pool: `map` may have many calls in flight."""
        return _LIMITS

    @property
    def patience_s(self) -> float:
        """How long an answer may take that the service was not asked to hold."""
        return self.timeout.read if self.timeout.read is not None else DEFAULT_TIMEOUT_S

    def timeout_of(self, request: Request) -> httpx.Timeout:
        """For a request that the service was asked to hold: so much longer."""
        usual = self.timeout
        read = None if usual.read is None else usual.read + request.held_s
        return httpx.Timeout(connect=usual.connect, read=read, write=usual.write, pool=usual.pool)


def configure(
    base_url: str | None,
    api_key: str | None,
    timeout: float | httpx.Timeout,
    retries: int,
    headers: Mapping[str, str] | None,
) -> Config:
    """From what the caller gave, else the environment: ML_SERVICE_URL, ML_SERVICE_API_KEY."""
    from ml_service_client import __version__

    url = base_url or os.environ.get("ML_SERVICE_URL") or HERE
    key = api_key or os.environ.get("ML_SERVICE_API_KEY")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"ML_SERVICE_URL (or base_url) must begin with http:// or https://, not {url!r}")
    ours = {"User-Agent": f"ml-service-client/{__version__} python/{platform.python_version()}"}
    if key:
        ours["Authorization"] = f"Bearer {key}"
    return Config(url.rstrip("/"), {**ours, **(headers or {})}, _patience(timeout), _policy(retries))


def _patience(timeout: float | httpx.Timeout) -> httpx.Timeout:
    return timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout, connect=min(timeout, 10.0))


def _policy(retries: int) -> Policy:
    if retries < 0:
        raise ValueError("retries must not be negative")
    return Policy(retries)
