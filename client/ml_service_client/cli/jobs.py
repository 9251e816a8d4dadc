"""Jobs: submit, wait, get, cancel, list."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ml_service_client import SyncMLServiceClient
from ml_service_client.cli import inputs
from ml_service_client.cli.ending import Failure, usage
from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import FAILED, AsJson, ago, note, say, show_json, span, table
from ml_service_client.core.config import HERE
from ml_service_client.problems import UnknownJob
from ml_service_client.types import Job


@contextmanager
def about(job_id: str) -> Iterator[None]:
    """Which of several is not there."""
    try:
        yield
    except UnknownJob as error:
        raise Failure(f"{job_id}: {error.detail}") from None


def filled(ids: Any) -> Any:
    """One or several; none is empty, as a variable of the shell is that nobody has set."""
    if not all(one.strip() for one in ([ids] if isinstance(ids, str) else ids)):
        raise usage("ID: is empty")
    return ids


Id = Annotated[str, typer.Argument(metavar="ID", callback=filled)]


Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="may be given again")]
Timeout = Annotated[float | None, typer.Option(min=0, help="seconds to wait; then exit code 4, and the job goes on")]
Version = Annotated[str | None, typer.Option("--version", help="a version or alias; default: as the traffic is shared")]
Parameters = Annotated[str | None, typer.Option(help="the task's own, as JSON")]
Priority = Annotated[str | None, typer.Option(help="high, normal or low")]
Deadline = Annotated[float | None, typer.Option(min=0, help="seconds; after them the output is worthless")]
ResultTtl = Annotated[float | None, typer.Option(min=1, help="seconds that the output can be read")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", callback=filled)]


def submit(
    model: Annotated[str, typer.Argument(help="name, name@version or name@alias")],
    given: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="JSON, or text; @FILE or an image's path: a file; -: stdin"),
    ],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="until it has ended, and print its output")] = False,
    timeout: Timeout = None,
    version: Version = None,
    parameters: Parameters = None,
    priority: Priority = None,
    deadline: Deadline = None,
    result_ttl: ResultTtl = None,
    label: Labels = None,
    idempotency_key: Annotated[str | None, typer.Option(help="the same key is the same job")] = None,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Queue a job, and print its id; with --wait its output."""
    options = job_options(version, parameters, priority, deadline, result_ttl, label)
    if timeout is not None and not wait:
        raise usage("--timeout: only with --wait")
    with client(url) as service:
        value = _input(service, model, inputs.read(given))
        job = service.submit(model, value, idempotency_key=idempotency_key, **options)
        if not wait:
            show_json(job.raw) if as_json else say(job.id)
            return
        _end(_waited(service, job, timeout), as_json=as_json)  # not held by the submit: its id is known at a Ctrl-C


def job_options(  # noqa: PLR0917 - as on the command line
    version: str | None,
    parameters: str | None,
    priority: str | None,
    deadline: float | None,
    result_ttl: float | None,
    label: list[str] | None,
) -> Any:
    """As the client takes them."""
    return {
        "version": version,
        "parameters": None if parameters is None else _object(parameters),
        "priority": priority,
        "deadline_s": deadline,
        "result_ttl_s": result_ttl,
        "labels": pairs(label, "--label") or None,
    }


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise usage(f"--parameters: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise usage("--parameters: must be a JSON object")
    return found


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE, each once."""
    found = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not name or not sign:
            raise usage(f"{option}: NAME=VALUE, not {one!r}")
        found[name] = value
    return found


def _input(service: SyncMLServiceClient, model: str, given: str | bytes) -> Any:
    if isinstance(given, str) and (value := inputs.as_json(given)) is not None:
        return value
    shape = inputs.Shape.of(service.model(model).input_schema)
    return inputs.from_bytes(given, shape) if isinstance(given, bytes) else inputs.from_text(given, shape)


def _waited(service: SyncMLServiceClient, job: Job | str, timeout_s: float | None) -> Job:
    """With its output. An end by Ctrl-C tells which job goes on."""
    try:
        return service.wait(job, timeout_s)
    except KeyboardInterrupt:
        job_id = job if isinstance(job, str) else job.id
        note(f"job {job_id} goes on: `ml-service wait {job_id}`, or `ml-service cancel {job_id}`")
        raise


def _end(job: Job, *, as_json: bool) -> None:
    if as_json:
        show_json(job.raw)
        if not job.succeeded:
            raise typer.Exit(FAILED)
    else:
        show_json(job.result())


def wait(ids: Ids, *, timeout: Timeout = None, as_json: AsJson = False, url: Url = HERE) -> None:
    """Wait for jobs, and print their outputs, one a line in the order of the ids. Exit code 3 where one has none."""
    failed = False
    end = None if timeout is None else time.monotonic() + timeout
    with client(url) as service:
        for job_id in ids:
            with about(job_id):
                job = _waited(service, job_id, None if end is None else max(0.0, end - time.monotonic()))
            failed |= not job.succeeded
            if as_json:
                show_json(job.raw)
            elif job.succeeded:
                show_json(job.output)
            else:
                show_json(None)
                error = job.failure()
                note(f"job {job.id}: {error.code}: {error.detail}", "red")
    if failed:
        raise typer.Exit(FAILED)


def get(job_id: Id, as_json: AsJson = False, url: Url = HERE) -> None:
    """A job as it is now."""
    with client(url) as service:
        job = service.get(job_id)
    if as_json:
        return show_json(job.raw)
    waits = f" ({job.waiting_for.message})" if job.waiting_for else ""
    say(f"id       {job.id}\nmodel    {job.model}@{job.version}\nstate    {job.state}{waits}")
    progress = job.progress
    if progress is not None and not job.done:
        share = "" if progress.fraction is None else f"{progress.fraction:.0%} "
        say(f"progress {share}{progress.message or ''}")
    if job.created_at:
        say(f"created  {ago(job.created_at)} ago")
    if job.labels:
        say(f"labels   {_labels(job)}")
    if job.error:
        say(f"error    {job.error.code}: {job.error.message}")
        for fault in job.error.errors:
            say(f"         {fault.pointer or '/'}: {fault.message}")
    if job.succeeded:
        say(f"output   {json.dumps(job.output, ensure_ascii=False) if job.output is not None else job.output_url}")


def cancel(ids: Ids, *, as_json: AsJson = False, url: Url = HERE) -> None:
    """Cancel jobs: a queued one ends at once, a running one with its batch; one that has ended stays as it is."""
    with client(url) as service:
        for job_id in ids:
            with about(job_id):
                job = service.cancel(job_id)
            show_json(job.raw) if as_json else say(f"{job.id}  {job.state}")


def jobs(
    *,
    state: Annotated[list[str] | None, typer.Option(help="queued, running ...; may be given again")] = None,
    model: Annotated[str | None, typer.Option(help="only of this model")] = None,
    label: Labels = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="how many")] = 20,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Your jobs, the newest first. With --json one a line."""
    with client(url) as service:
        listed = service.jobs(state=state or None, model=model, labels=pairs(label, "--label"), page=min(limit, 200))
        found = [job for _, job in zip(range(limit), listed, strict=False)]
    if as_json:
        for job in found:
            show_json(job.raw)
        return
    rows = [
        (job.id, f"{job.model}@{job.version}", job.state, ago(job.created_at), _took(job), _told(job)) for job in found
    ]
    table(["ID", "MODEL", "STATE", ">AGE", ">TOOK", "LABELS"], rows)


def _took(job: Job) -> str | None:
    if job.created_at is None or job.finished_at is None:
        return None
    seconds = (job.finished_at - job.created_at).total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else span(seconds)


def _told(job: Job) -> str:
    parts = [_labels(job)] if job.labels else []
    parts += [job.error.code] if job.error else []
    parts += [job.waiting_for.code] if job.waiting_for and job.waiting_for.code != "turn" else []
    return " ".join(parts)


def _labels(job: Job) -> str:
    return " ".join(f"{name}={value}" for name, value in job.labels.items())
