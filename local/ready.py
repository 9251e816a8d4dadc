"""When the stack is ready: the API takes jobs, a worker serves each model loaded at start, and Flower answers."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Sequence
from urllib.parse import quote, urlsplit

POLL_S = 0.2
TELL_S = 10.0


async def wait_ready(api_url: str, flower_url: str, models: Sequence[str], tell: Callable[[str], None]) -> None:
    """Returns when all is ready; meanwhile tells every few seconds what is not. It sets no limit: cancel it."""
    pending = {"the API": f"{api_url}/readyz", "Flower": f"{flower_url}/healthcheck"}
    pending |= {model: f"{api_url}/readyz?model={quote(model, safe='')}" for model in models}
    loop = asyncio.get_running_loop()
    told = loop.time()
    while True:
        for name, url in list(pending.items()):
            if await asyncio.to_thread(_ok, url):
                del pending[name]
        if not pending:
            return
        if loop.time() - told > TELL_S:
            told = loop.time()
            tell(f"waiting for {', '.join(pending)}")
        await asyncio.sleep(POLL_S)


def _ok(url: str) -> bool:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=5)
    try:
        connection.request("GET", f"{place.path}?{place.query}")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
