"""The card of a version: what this worker says of it, loaded or not."""

from __future__ import annotations

from typing import Any

from worker.models import handler_card
from worker.shelf import Place, Standing


def place_card(place: Place, following: Place | None, *, device: str) -> dict[str, Any]:
    """JSON data. `memory` as measured, where it has been loaded; `error`: why it does not load; `coming`: of the build
    that is to take its place."""
    model = place.model if place.standing in (Standing.READY, Standing.DRAINING) else None
    card: dict[str, Any] = {
        "model": place.ref.model,
        "version": place.ref.version,
        **_state(place),
        "load": place.spec.load,
        "device": device,
    }
    kind = place.kind if model is None else model.handler
    if kind is not None:
        card |= handler_card(kind)
    if model is not None:
        card |= model.card()
    if following is not None:
        card["coming"] = _state(following)
    return card


def _state(place: Place) -> dict[str, Any]:
    told = {"state": place.standing.value, "build": place.build, "loaded": place.loaded}
    return told | ({"error": place.error[:500]} if place.error else {})
