"""Errors as callers meet them: by class, by code, as httpx's, and on their way to another process."""

from __future__ import annotations

import copy
import pickle

import httpx
import pytest

import ml_service_client
from ml_service_client import (
    PROBLEMS,
    Canceled,
    InvalidInput,
    Job,
    JobError,
    MLServiceError,
    OutOfMemory,
    Refused,
    WaitEnded,
)
from ml_service_client.core.answers import error_of, id_of

JOB = {"id": "j1", "model": "bert", "version": "1", "request_id": "r1"}


def problem(status: int, **body: object) -> MLServiceError:
    request = httpx.Request("POST", "http://h/inference", headers={"Authorization": "Bearer mls_secret"})
    response = httpx.Response(status, json=body, headers={"X-Request-ID": "r7"}, request=request)
    return error_of(response)


@pytest.mark.parametrize("code", PROBLEMS)
def test_each_code_has_its_class(code: str) -> None:
    error = problem(418, code=code, detail="said")
    assert type(error) is PROBLEMS[code]
    assert error.code == code
    assert isinstance(error, httpx.HTTPStatusError)
    assert isinstance(error, JobError | Refused)
    assert getattr(ml_service_client, type(error).__name__) is type(error)


def test_all_that_it_tells() -> None:
    fault = {"pointer": "/data/text", "code": "missing", "message": "Field required"}
    error = problem(422, code="invalid_input", detail="It does not fit.", errors=[fault], job="/v1/jobs/j1")
    assert isinstance(error, InvalidInput)
    assert (error.status, error.detail, error.job, error.request_id) == (422, "It does not fit.", "j1", "r7")
    assert error.errors[0].pointer == "/data/text"
    assert str(error) == "invalid_input: It does not fit; /data/text: Field required (422, job j1, request r7)"
    assert "mls_secret" not in str(error) + repr(error)


def test_a_code_that_is_newer_than_the_client() -> None:
    error = problem(409, code="something_new", detail="said")
    assert type(error) is MLServiceError
    assert error.code == "something_new"


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
def test_goes_between_processes_without_the_key(again: object) -> None:
    error = problem(504, code="wait_ended", detail="said", job="/v1/jobs/j1")
    same = again(error)  # type: ignore[operator]
    assert type(same) is WaitEnded
    assert (str(same), same.job, same.response.json()) == (str(error), "j1", error.response.json())
    assert b"mls_secret" not in pickle.dumps(error)


def test_waits_that_end_are_timeouts() -> None:
    with pytest.raises(TimeoutError):
        raise problem(504, code="wait_ended", detail="said")


def test_a_job_that_failed_raises_its_own() -> None:
    failed = Job.of(
        {**JOB, "state": "failed", "error": {"code": "out_of_memory", "message": "too much", "errors": None}}
    )
    with pytest.raises(OutOfMemory) as caught:
        failed.result()
    assert (caught.value.job, caught.value.status, caught.value.request_id) == ("j1", 507, "r1")
    assert caught.value.response.json()["code"] == "out_of_memory"
    pickle.dumps(caught.value)
    with pytest.raises(Canceled):
        Job.of({**JOB, "state": "canceled"}).result()
    with pytest.raises(ValueError, match="is running"):
        Job.of({**JOB, "state": "running"}).result()
    newer = Job.of({**JOB, "state": "failed", "error": {"code": "brand_new", "message": "m"}}).failure()
    assert (type(newer), newer.code) == (JobError, "brand_new")


def test_a_jobs_id_in_every_form() -> None:
    job = Job.of({**JOB, "state": "queued"})
    assert id_of(job) == id_of("j1") == id_of("/v1/jobs/j1") == id_of("http://h/v1/jobs/j1/") == "j1"
    for wrong in (None, 7, ""):
        with pytest.raises(TypeError):
            id_of(wrong)
