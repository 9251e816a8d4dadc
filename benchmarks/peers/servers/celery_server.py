"""Celery behind FastAPI, as the tutorials have it; its worker is `celery -A celery_server worker`."""

from __future__ import annotations

import os
from typing import Any

import embedder
import uvicorn
from celery import Celery
from celery.signals import worker_process_init
from fastapi import FastAPI
from pydantic import BaseModel

URL = os.environ["PEER_REDIS_URL"]
celery = Celery("peer", broker=URL, backend=URL)
celery.conf.worker_concurrency = embedder.setting("WORKERS", 1)
api = FastAPI()
loaded: dict[str, Any] = {}


class Request(BaseModel):
    """The body of a call."""

    texts: list[str]


@worker_process_init.connect
def load(**_: Any) -> None:
    """The model, once for each process of the pool, after the fork."""
    loaded["embed"] = embedder.make()


@celery.task(name="infer")
def infer(texts: list[str]) -> list[Any]:
    """The vectors of the texts."""
    return loaded["embed"](texts)


@api.post("/embed")
def endpoint(request: Request) -> dict[str, list[Any]]:
    """Waits in one of the threads of FastAPI's pool."""
    return {"embeddings": infer.delay(request.texts).get(timeout=120)}


if __name__ == "__main__":
    uvicorn.run(api, host="127.0.0.1", port=embedder.setting("PORT", 8000), access_log=False)
