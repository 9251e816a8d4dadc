"""The Celery app of worker, Flower and `celery inspect` keeps to itself."""

from __future__ import annotations

from celery import Celery

from shared.messages import TASK
from shared.queue import make_celery
from shared.settings import Settings


def test_its_task_is_in_no_other_app_of_the_process() -> None:
    """Where a backend imports ours beside its own app, or two of ours, Celery would warn of twins."""
    ours = make_celery(Settings())
    backend = Celery("backend", set_as_current=False)
    assert TASK in ours.tasks
    assert TASK not in backend.tasks


def test_whether_jobs_have_events_is_a_setting() -> None:
    assert make_celery(Settings()).conf.worker_send_task_events is True
    assert make_celery(Settings(task_events=False)).conf.worker_send_task_events is False
