"""Which queues Celery consumes: the intake, and one for each version that this worker has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared import keys
from shared.queue import queue


class Queues:
    """Celery's main thread. `wanted` gives the names now."""

    def __init__(self, wanted: Callable[[], list[str]]) -> None:
        self._wanted = wanted
        self.consumer: Any = None
        """Celery's, once it runs."""

    def sync(self) -> None:
        """Consume what is wanted and nothing else. While the connection is lost nothing is done: the next call does
        it. Raises what kombu raises when it is just being lost."""
        tasks = getattr(self.consumer, "task_consumer", None)
        if tasks is None:
            return
        known = self.consumer.app.amqp.queues
        wanted = {keys.INTAKE, *self._wanted()}
        have = set(known.consume_from)
        for name in sorted(wanted - have):
            known.select_add(queue(name))
        for name in sorted(name for name in wanted if not tasks.consuming_from(name)):
            tasks.add_queue(known[name])
            tasks.consume()
        for name in sorted(have - wanted):
            known.deselect(name)
            tasks.cancel_by_queue(name)
