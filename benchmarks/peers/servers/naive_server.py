"""FastAPI that calls the model inline: the first thing that everybody writes."""

from __future__ import annotations

import embedder
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
embed = embedder.make()


class Request(BaseModel):
    """The body of a call."""

    texts: list[str]


@app.post("/embed")
async def endpoint(request: Request) -> dict[str, list[list[float]] | list[str]]:
    """The vectors of the texts."""
    return {"embeddings": embed(request.texts)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=embedder.setting("PORT", 8000), access_log=False)
