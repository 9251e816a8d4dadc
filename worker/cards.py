"""The card of a version: what this worker says of it, loaded or not."""

from __future__ import annotations

from typing import Any

from worker.models import handler_card
from worker.shelf import Place, Standing


def place_card(place: Place, *, device: str) -> dict[str, Any]:
    """JSON data. `memory` as measured, where it has been loaded; `error`: why it does not load."""
    model = place.model if place.standing in (Standing.READY, Standing.DRAINING) else None
    card: dict[str, Any] = {
        "model": place.ref.model,
        "version": place.ref.version,
        "state": place.standing.value,
        "load": place.spec.load,
        "device": device,
    }
    card |= handler_card(place.kind if model is None else model.handler)
    if model is not None:
        card |= model.card()
    if place.error:
        card["error"] = place.error[:500]
    return card
