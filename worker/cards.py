"""The card of a version: what this worker says of it, loaded or not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from worker.device import Device
from worker.models import handler_card
from worker.shelf import Place, Standing


def place_card(place: Place, following: Place | None, *, device: Device) -> dict[str, Any]:
    """JSON data. `memory` as measured, where it has been loaded; `error`: why it does not load; `coming`: of the build
    that is to take its place."""
    model = place.model if place.standing in (Standing.READY, Standing.DRAINING) else None
    card: dict[str, Any] = {
        "model": place.ref.model,
        "version": place.ref.version,
        **_state(place),
        "load": place.spec.load,
        **told_device(device),
    }
    kind = place.kind if model is None else model.handler
    if kind is not None:
        card |= handler_card(kind)
    if model is not None:
        card |= model.card()
    if following is not None:
        card["coming"] = _state(following)
    return card


def told_device(device: Device) -> dict[str, Any]:
    """`device` as torch calls it, and which `gpu` that is (null on a CPU): each worker calls its own cuda:0."""
    return {"device": device.name, "gpu": None if device.gpu is None else asdict(device.gpu)}


def _state(place: Place) -> dict[str, Any]:
    told = {"state": place.standing.value, "build": place.build, "loaded": place.loaded}
    return told | ({"error": place.error[:500]} if place.error else {})
