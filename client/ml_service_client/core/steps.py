"""What a call asks its driver to do. A call is a generator: it yields steps, gets answers, returns its result."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import httpx

T = TypeVar("T")


class Source(Protocol):
    """A body that can be read again from its start, for another attempt."""

    def size(self) -> int:
        """In bytes."""

    def chunks(self) -> Iterator[bytes]:
        """From the start."""


@dataclass(frozen=True, slots=True)
class Request:
    """Send this. `held_s`: how much longer than usual the service may take, as it was asked to wait. `again`: to send
    it twice does no harm, though it is a POST without a key."""

    method: str
    path: str
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Source | None = None
    held_s: float = 0.0
    again: bool = False

    @property
    def repeatable(self) -> bool:
        """The same request twice is no work twice."""
        return self.again or self.method in ("GET", "HEAD", "PUT", "DELETE") or "Idempotency-Key" in self.headers


@dataclass(frozen=True, slots=True)
class Sleep:
    """Come back after so long."""

    seconds: float


# A driver sends the answer (read to its end) for a Request, None for a Sleep, and throws httpx.TransportError in.
Call = Generator["Request | Sleep", "httpx.Response | None", T]
