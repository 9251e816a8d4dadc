"""Fallbacks as models.yaml names them. Which job goes to one is api/fallback.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from shared.tasks import TEXT_EMBEDDING


class FallbackSpec(BaseModel):
    """Another `model`, which does the same, for jobs that this one cannot take now. `dimensions`: of embeddings, where
    it is the explicit yes to vectors of another space, of which so many numbers are asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, max_length=128)
    dimensions: int | None = Field(None, ge=1)

    def check(self, task: str | None) -> None:
        """Raises ValueError where it does not fit a model that does this task."""
        if task == TEXT_EMBEDDING.name and self.dimensions is None:
            raise ValueError(
                "fallback.dimensions: must be given for embeddings: how many numbers the vectors of both models have. "
                "Those of the fallback lie in another space"
            )
        if task != TEXT_EMBEDDING.name and self.dimensions is not None:
            raise ValueError(f"fallback.dimensions: only of {TEXT_EMBEDDING.name}")


class _Model(Protocol):
    @property
    def task(self) -> str | None: ...
    @property
    def handler(self) -> str | None: ...
    @property
    def fallback(self) -> FallbackSpec | None: ...


def unfit(model: str, models: Mapping[str, _Model]) -> str:
    """Why the fallback of a model cannot be one, by field; empty: it can, or none is named."""
    spec = models[model]
    if spec.fallback is None:
        return ""
    name = spec.fallback.model
    if name == model:
        return "fallback.model: names the model itself"
    if name not in models:
        return f"fallback.model: there is no model {name!r}"
    own, other = spec.task or spec.handler, models[name].task or models[name].handler
    return "" if own == other else f"fallback.model: {name} does {other}, not {own}"
