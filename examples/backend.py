"""A FastAPI backend that uses ml-service. Run it with `uvicorn examples.backend:app`; ML_SERVICE_URL says where the
service is, PUBLIC_URL where the service reaches this backend."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from ml_service_client import InvalidInput, MLServiceClient, MLServiceError, WebhookError, verify_webhook
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for the life of the process: it keeps its connections."""
    async with MLServiceClient() as client:
        app.state.ml = client
        yield


app = FastAPI(lifespan=lifespan)
finished: dict[str, Any] = {}  # a backend has a database


def ml_service(request: Request) -> MLServiceClient:
    """The dependency."""
    client: MLServiceClient = request.app.state.ml
    return client


ML = Annotated[MLServiceClient, Depends(ml_service)]


class Text(BaseModel):
    """What is to be embedded."""

    text: str


@app.post("/embed")
async def embed(body: Text, ml: ML) -> list[float]:
    """While the caller waits."""
    answer = await ml.inference("bert", {"text": body.text})
    vector: list[float] = answer["output"]["embedding"]
    return vector


@app.post("/reports", status_code=202)
async def report(body: Text, ml: ML) -> dict[str, str]:
    """While nobody waits: the service calls /hooks/ml-service at the end."""
    hook = f"{os.environ['PUBLIC_URL']}/hooks/ml-service"
    job = await ml.submit("bert", {"text": body.text}, webhook=hook, labels={"kind": "report"})
    return {"job": job.id}


@app.get("/reports/{job_id}")
async def read_report(job_id: str) -> Any:
    """404 until the webhook has come."""
    if job_id not in finished:
        raise HTTPException(404)
    return finished[job_id]


@app.post("/hooks/ml-service", status_code=204)
async def hook(request: Request, ml: ML) -> None:
    """Believe nothing that is not signed, and do nothing twice: the same event may come again."""
    secret = os.environ.get("ML_WEBHOOK_SECRET") or (await ml.webhook_secret()).secret
    try:
        event = verify_webhook(request.headers, await request.body(), secret)
    except WebhookError as error:
        raise HTTPException(400, str(error)) from None
    if event.job is not None:
        finished.setdefault(event.job.id, {"state": event.job.state, "output": event.job.output})


@app.exception_handler(MLServiceError)
async def ml_failed(request: Request, error: Exception) -> JSONResponse:
    """What our own callers are told: their mistakes are theirs, everything else is `try later`."""
    if isinstance(error, InvalidInput):
        return JSONResponse({"detail": [fault.message for fault in error.errors] or error.detail}, 422)
    wait_s = error.retry_after_s if isinstance(error, MLServiceError) else None
    return JSONResponse({"detail": "try later"}, 503, {"Retry-After": f"{wait_s or 1:.0f}"})
