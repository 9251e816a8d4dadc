"""Celery's events of a moment are sent together, whatever became of those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from celery import Celery
from celery.events import EventDispatcher
from kombu import Connection
from kombu.asynchronous import Hub

from worker.consumer import DeadLetteringConsumer


class Clock:
    """Moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def consumer() -> Iterator[DeadLetteringConsumer]:
    """With a loop and a dispatcher, and without the rest of a worker."""
    one = DeadLetteringConsumer.__new__(DeadLetteringConsumer)
    one._clock = Clock()
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


def fire(consumer: DeadLetteringConsumer) -> None:
    """The one timer that is set, whose time has come."""
    (scheduled,) = consumer.hub.timer.queue
    consumer.hub.timer.clear()
    scheduled.entry()


def test_a_moments_events_go_together(consumer: DeadLetteringConsumer) -> None:
    for _ in range(100):
        consumer.event_dispatcher.send("task-received")
    assert waiting(consumer) == 100
    fire(consumer)
    assert waiting(consumer) == 0


def lose(consumer: DeadLetteringConsumer) -> None:
    """As a loop that is begun anew, its connection being lost."""
    consumer.hub.timer.clear()


@pytest.mark.parametrize("end", [fire, lose])
def test_the_next_moments_events_go_too(
    consumer: DeadLetteringConsumer, end: Callable[[DeadLetteringConsumer], None]
) -> None:
    consumer.event_dispatcher.send("task-received")
    end(consumer)
    consumer._clock.now += 0.25
    consumer.event_dispatcher.send("task-succeeded")
    fire(consumer)
    assert waiting(consumer) == 0


def test_what_is_left_is_sent_at_once_when_it_is_asked_for(consumer: DeadLetteringConsumer) -> None:
    consumer.event_dispatcher.send("task-succeeded")
    consumer.flush_events()
    assert waiting(consumer) == 0
