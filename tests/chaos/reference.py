"""What is asked and what must come back: a pure function of seed and number, known to callers, handler and judge."""

from __future__ import annotations

import hashlib
import random
from typing import Any

MODEL = "reckon"
_LARGE_EVERY, _LARGE = 97, 40_000  # above ML_INLINE_BYTES: these inputs travel through the payload store


def question(seed: int, n: int) -> dict[str, Any]:
    """The input of job `n`."""
    words = random.Random(f"{seed}:{n}").sample(_WORDS, 6)
    text = " ".join(words)
    if n % _LARGE_EVERY == 0:
        text = (text + " ") * (_LARGE // len(text))
    return {"seed": seed, "n": n, "text": text}


def answer(seed: int, n: int, text: str) -> dict[str, Any]:
    """Its output. Every character of the input counts."""
    digest = hashlib.sha256(f"{seed}:{n}:{text}".encode()).hexdigest()
    return {"n": n, "digest": digest, "length": len(text)}


def expected(seed: int, n: int) -> dict[str, Any]:
    """The output of job `n`, computed here and not by the service."""
    return answer(**question(seed, n))


def priority(n: int) -> str:
    """Most jobs are normal ones."""
    return {0: "high", 1: "low"}.get(n % 10, "normal")


# fmt: off
_WORDS = [
    "accepted", "never", "lost", "one", "outcome", "for", "every", "job", "whatever", "dies", "lease", "batch",
    "queue", "worker", "device", "record", "message", "waiter", "finish", "claim", "drain", "restore", "sweep",
    "cancel", "watch", "renew", "adopt", "submit", "journal", "caller", "answer", "judge", "seed",
]
# fmt: on
