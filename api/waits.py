"""What a queued job waits for, by what the workers say of its version."""

from __future__ import annotations

from typing import Any

from api.presence import Workers
from shared.types import Job, Wait


def wait_of(job: Job, workers: Workers, *, paused: bool = False) -> Wait:
    """Of a job that is queued."""
    if paused:
        return Wait(code="paused", message=f"its model: an operator has paused {job.model}")
    ref = f"{job.model}@{job.version}"
    cards = workers.cards.get(ref, [])
    by_state: dict[str, list[dict[str, Any]]] = {}
    for card in cards:
        by_state.setdefault(card.get("state", ""), []).append(card)
    if "ready" in by_state:
        return Wait(code="turn", message="its turn: others are before it, or it is about to run")
    for state, told in (
        ("loading", "is loading"),
        ("unloaded", "will load"),
        ("unloading", "will load again"),
        ("draining", "will load again"),
    ):
        if state in by_state:
            return Wait(code="model", message=f"its model: worker {_names(by_state[state])} {told} {ref}")
    if failed := by_state.get("failed"):
        return Wait(code="model", message=f"its model: it failed to load on {_names(failed)}: {failed[0].get('error')}")
    return Wait(code="worker", message=f"a worker: none that lives serves {ref}")


def _names(cards: list[dict[str, Any]]) -> str:
    return ", ".join(sorted(str(card.get("worker")) for card in cards)[:3])
