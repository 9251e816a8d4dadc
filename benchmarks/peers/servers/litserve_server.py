"""LitServe, with or without its batching."""

from __future__ import annotations

from typing import Any

import embedder
import litserve
from embedder import setting


class Api(litserve.LitAPI):
    """A request is a list of texts, so is a prediction's part of the batch."""

    def setup(self, device: str) -> None:
        """In the worker's process."""
        self.embed: Any = embedder.make()

    def decode_request(self, request: dict[str, list[str]]) -> list[str]:
        """The texts."""
        return request["texts"]

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """The requests side by side; `predict` looks into them."""
        return inputs

    def predict(self, batch: Any) -> Any:
        """All texts of all requests in one go; without batching `batch` is one request."""
        if not batch or isinstance(batch[0], str):
            return self.embed(batch)
        vectors = iter(self.embed([text for texts in batch for text in texts]))
        return [[next(vectors) for _ in texts] for texts in batch]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """They are apart already."""
        return output

    def encode_response(self, output: list[Any]) -> dict[str, list[Any]]:
        """The vectors."""
        return {"embeddings": output}


def serve(api: type[Api] = Api) -> None:
    """Until it is killed."""
    server = litserve.LitServer(
        api(max_batch_size=setting("MAX_BATCH", 1), batch_timeout=setting("WAIT_MS", 0) / 1000, api_path="/embed"),
        accelerator="cpu",
        workers_per_device=setting("WORKERS", 1),
        timeout=False,
        fast_queue=bool(setting("FAST_QUEUE", 1)),
    )
    server.run(host="127.0.0.1", port=setting("PORT", 8000), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    serve()
