"""Ray Serve: one replica with all cores, with or without `@serve.batch`."""

from __future__ import annotations

import os
import signal
from typing import Any

import embedder
import ray
from embedder import setting
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

CORES = os.cpu_count() or 1


# torch takes as many threads as the actor has cores, so it gets them all; Ray's own actors ask for none.
@serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": CORES})
class Model:
    """One replica."""

    def __init__(self) -> None:
        self.embed = embedder.make()
        self.batches = setting("MAX_BATCH", 1) > 1

    @serve.batch(max_batch_size=setting("MAX_BATCH", 1), batch_wait_timeout_s=setting("WAIT_MS", 0) / 1000)
    async def batched(self, requests: list[list[str]]) -> list[list[Any]]:
        """All texts of all requests in one go."""
        vectors = iter(self.embed([text for texts in requests for text in texts]))
        return [[next(vectors) for _ in texts] for texts in requests]

    async def __call__(self, request: Request) -> JSONResponse:
        """A response of its own: Ray's encoder of plain data walks through every float."""
        texts = (await request.json())["texts"]
        return JSONResponse({"embeddings": await self.batched(texts) if self.batches else self.embed(texts)})


if __name__ == "__main__":
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["PEER_FOLDER"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": setting("PORT", 8000)})
    serve.run(Model.bind(), route_prefix="/embed", logging_config={"enable_access_log": False})  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
