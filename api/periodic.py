"""What an API process does once a second, as long as it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared.logs import Event, get_logger

logger = get_logger("api")

_EVERY_S = 1.0


class Periodic:
    """Runs `step` in the background. An error does not end it: the next step may pass."""

    def __init__(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        self._name, self._step = name, step
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Until `stop`."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _forever(self) -> None:
        while True:
            try:
                await self._step()
            except Exception as error:
                logger.error(Event.TASK_FAILED, exc_info=error, task=self._name)
            await asyncio.sleep(_EVERY_S)
