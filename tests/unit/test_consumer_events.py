"""Celery's events are sent once a turn of the worker's loop, whatever became of the turn before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from celery import Celery
from celery.events import EventDispatcher
from kombu import Connection
from kombu.asynchronous import Hub
from vine import promise

from worker.consumer import DeadLetteringConsumer


@pytest.fixture
def consumer() -> Iterator[DeadLetteringConsumer]:
    """With a loop and a dispatcher, and without the rest of a worker."""
    one = DeadLetteringConsumer.__new__(DeadLetteringConsumer)
    one._flush_events_promise = promise(one._flush_events)
    with closing(Hub()) as one.hub, Connection("memory://") as connection:
        one.event_dispatcher = EventDispatcher(
            connection,
            app=Celery(set_as_current=False),
            buffer_group={"task"},
            on_send_buffered=one.on_send_event_buffered,
        )
        yield one


def waiting(consumer: DeadLetteringConsumer) -> int:
    return len(consumer.event_dispatcher._group_buffer["task"])


def test_a_turns_events_go_together(consumer: DeadLetteringConsumer) -> None:
    for _ in range(100):
        consumer.event_dispatcher.send("task-received")
    assert waiting(consumer) == 100
    (flush,) = consumer.hub._pop_ready()
    flush()
    assert waiting(consumer) == 0


def test_events_flow_after_a_turn_was_left(consumer: DeadLetteringConsumer) -> None:
    consumer.event_dispatcher.send("task-received")
    consumer.hub._pop_ready()  # as by a loop that a callback before this one has left, its connection being lost
    consumer.event_dispatcher.send("task-succeeded")
    (flush,) = consumer.hub._pop_ready()
    flush()
    assert waiting(consumer) == 0
