"""Whether padding leaves a model's answers as they are: tried once at load, on the examples.

The rules of `pipeline_collate.batching_of` know what most models do. A model with positions counted from the padding,
or with a convolution that reads it, breaks them silently; it is caught here and gets equal shapes instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.tasks import Task
from worker.handler import Prepared
from worker.handlers.pipeline_collate import GENERATES


def padding_is_harmless(handler: Any) -> bool:
    """Compare the outputs of the examples' first chunks alone and padded together. Generating models are left out:
    one forward of theirs is a whole answer, and their padding stands on the left, behind the attention mask. Runs the
    model, before it serves."""
    if handler.task in GENERATES or handler.pipe.model.can_generate():
        return True
    task: Task = handler.io
    parameters = task.parameters.model_validate(handler.example_parameters)
    chunks = [_first(handler.prepare(item, parameters)) for item in handler.example]
    if len(chunks) < 2 or chunks[0].group != chunks[1].group:
        return True
    batch = [chunk.item for chunk in chunks]
    together = handler.predict(batch)
    return all(_close(handler.predict([one])[0], other) for one, other in zip(batch, together, strict=True))


def _first(prepared: Prepared | list[Prepared]) -> Prepared:
    return prepared if isinstance(prepared, Prepared) else prepared[0]


def _close(alone: Any, padded: Any) -> bool:
    """Numbers of one shape are equal but for rounding; what only the padding added is not looked at."""
    import torch

    if isinstance(alone, Mapping):
        return all(_close(value, padded[key]) for key, value in alone.items() if key in padded)
    if isinstance(alone, tuple):
        return all(_close(one, other) for one, other in zip(alone, padded, strict=False))
    if not isinstance(alone, torch.Tensor) or alone.ndim != padded.ndim:
        return True
    if alone.ndim >= 2 and alone.shape[1] < padded.shape[1]:
        padded = padded[:, : alone.shape[1]]
    if alone.shape != padded.shape or not alone.numel():
        return bool(alone.shape == padded.shape)
    if not alone.is_floating_point():
        return bool((alone == padded).float().mean() >= 0.95)
    scale = max(1.0, alone.abs().max().item())
    allowed = 1e-2 if alone.dtype == torch.float32 else 5e-2
    return bool((alone.float() - padded.float()).abs().max() <= allowed * scale)
