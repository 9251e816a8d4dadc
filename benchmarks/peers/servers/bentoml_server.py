"""BentoML: `bentoml serve bentoml_server:Embedding`, with or without its adaptive batching."""

from __future__ import annotations

from typing import Any

import bentoml
import embedder
from embedder import setting


@bentoml.service(workers=1, traffic={"timeout": 600}, logging={"access": {"enabled": False}})
class Embedding:
    """One process, in which the model runs in a thread."""

    def __init__(self) -> None:
        self.embed = embedder.make()

    @bentoml.api(
        route="/embed",
        batchable=setting("MAX_BATCH", 1) > 1,
        max_batch_size=setting("MAX_BATCH", 100),
        max_latency_ms=setting("LATENCY_MS", 60_000),
    )
    def vectors(self, texts: list[str]) -> list[Any]:
        """With batching these are the texts of several requests."""
        return self.embed(texts)
