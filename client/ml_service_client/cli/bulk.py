"""`ml-service bulk`: many inputs from a file, their results into another; run again, it goes on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from ml_service_client import SyncMLServiceClient
from ml_service_client.cli import inputs
from ml_service_client.cli.bulk_progress import Interrupt, Progress
from ml_service_client.cli.bulk_run import Results, Run, measured, new_name, raw_lines
from ml_service_client.cli.ending import Failure, exit_code
from ml_service_client.cli.jobs import Deadline, Labels, Parameters, Priority, ResultTtl, Version, job_options
from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import ERROR, FAILED, AsJson, note, show_json
from ml_service_client.core.config import HERE
from ml_service_client.errors import JobError, MLServiceError
from ml_service_client.problems import MethodNotAllowed, NotFound, TooLarge
from ml_service_client.records import Batch, Line

_RETRIES = 30  # minutes of patience: the service may be replaced meanwhile
_AHEAD = 2  # slices that wait at the service while the results of one come


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that is no input."""

    message: str


@dataclass(frozen=True, slots=True)
class Result:
    """Of one input, in the order of the inputs."""

    state: str
    more: dict[str, Any]


def bulk(
    model: Annotated[str, typer.Argument(help="name, name@version or name@alias")],
    source: Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="one input a line: JSON, or text")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="the results, one a line in the order of the inputs")],
    version: Version = None,
    parameters: Parameters = None,
    priority: Priority = None,
    deadline: Deadline = None,
    result_ttl: ResultTtl = None,
    label: Labels = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="jobs at once, where there are no batches")] = 64,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Run a model on each line of a file. After Ctrl-C, or any other end, run it again: it goes on where it was. Exit
    code 3 if a line has failed."""
    options = job_options(version, parameters, priority, deadline, result_ttl, label)
    given = {name: value for name, value in options.items() if value is not None}
    results = Results(output)
    with client(url, retries=_RETRIES) as service, Interrupt() as interrupt:
        run = _begun(service, results, source, model, given)
        results.open()
        progress = Progress(run.lines, results.done, results.failed)
        try:
            for result in _results(service, results, run, source, concurrency):
                interrupt.look()
                results.write(result.state, **result.more)
                progress.update(results.done, results.failed)
        except KeyboardInterrupt:
            progress.close()
            note(f"stopped at {results.done:,} of {run.lines:,}; run it again to go on")
            raise
        except (MLServiceError, httpx.TransportError):
            progress.close()
            note(f"stopped at {results.done:,} of {run.lines:,}; run it again to go on:")
            raise
        finally:
            progress.close()
            results.close()
    _end(results, as_json=as_json)


def _end(results: Results, *, as_json: bool) -> None:
    failed, done = results.failed, results.done
    if as_json:
        show_json({"lines": done, "succeeded": done - failed, "failed": failed, "output": str(results.path)})
    else:
        note(f"{done:,} lines: {done - failed:,} succeeded, {failed:,} failed; {results.path}", "red" if failed else "")
    if failed:
        raise typer.Exit(FAILED)


def _begun(service: SyncMLServiceClient, results: Results, source: Path, model: str, options: dict[str, Any]) -> Run:
    """The run that goes on, or a new one. Raises Failure where another run was begun there."""
    lines, sha256 = measured(source)
    known = results.known()
    if known is not None:
        for what, now, then in (
            ("another model", model, known.model),
            ("other options", options, known.options),
            ("another input", sha256, known.sha256),
        ):
            if now != then:
                raise Failure(
                    f"{results.path} was begun with {what}: choose another file for the results, or remove it "
                    f"and {results.path}.bulk"
                )
        return known
    shape = inputs.Shape.of(service.with_options(retries=2).model(model).input_schema)
    run = Run(
        name=new_name(),
        model=model,
        options=options,
        lines=lines,
        sha256=sha256,
        text=shape.text,
        open=shape.open,
        via="batches",
    )
    results.keep(run)
    return run


def _results(
    service: SyncMLServiceClient, results: Results, run: Run, source: Path, concurrency: int
) -> Iterator[Result]:
    """From the first line on that has none."""
    if results.done == run.lines:
        return
    if run.via == "batches":
        try:
            yield from _by_batches(service, run, source, results.done)
            return
        except (NotFound, MethodNotAllowed):
            if results.done:  # there were some before
                raise
        run = replace(run, via="jobs")
        results.keep(run)
    yield from _by_jobs(service, run, source, results.done, concurrency)


def _values(run: Run, source: Path, start: int) -> Iterator[Any]:
    """Each line from `start` as a model's input, or Bad."""
    shape = inputs.Shape(text=run.text, open=run.open)
    for raw in islice(raw_lines(source), start, None):
        yield value_of(raw, shape)


def value_of(raw: bytes, shape: inputs.Shape) -> Any:
    """A JSON object or list, or a text that the model takes; else Bad."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Bad("the line is not UTF-8")
    try:
        value = inputs.as_json(text)
    except Failure as error:
        return Bad(str(error))
    if value is not None:
        return value
    if shape.text and text[:1] == '"':
        try:
            text = json.loads(text)
        except ValueError:
            return Bad("the line is no JSON")
    try:
        return inputs.from_text(text, shape)
    except Failure:
        return Bad("the line is no JSON, and this model takes no plain text")


# As batches ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slice:
    values: list[Any]
    batch: Batch | None  # None: none of its lines is an input


def _by_batches(service: SyncMLServiceClient, run: Run, source: Path, start: int) -> Iterator[Result]:
    number, skip = divmod(start, run.slice)
    values = _values(run, source, number * run.slice)
    waiting: deque[_Slice] = deque()
    more = True
    while True:
        while more and len(waiting) <= _AHEAD:
            part = list(islice(values, run.slice))
            more = len(part) == run.slice
            if part:
                waiting.append(_submitted(service, run, number, part))
                number += 1
        if not waiting:
            return
        yield from _of_slice(service, waiting.popleft(), skip)
        skip = 0


def _submitted(service: SyncMLServiceClient, run: Run, number: int, values: list[Any]) -> _Slice:
    """The same slice again is the same batch."""
    good = [value for value in values if not isinstance(value, Bad)]
    if not good:
        return _Slice(values, None)
    options: Any = run.options
    return _Slice(values, service.batch(run.model, good, idempotency_key=run.key(number), **options))


def _of_slice(service: SyncMLServiceClient, part: _Slice, skip: int) -> Iterator[Result]:
    first = sum(not isinstance(value, Bad) for value in part.values[:skip])
    lines = iter(()) if part.batch is None else service.batch_results(part.batch, start=first)
    for value in part.values[skip:]:
        yield _bad(value) if isinstance(value, Bad) else _of_line(next(lines))
    next(lines, None)  # it ends its connection here, and not when its memory is freed: there a Ctrl-C would be lost


def _of_line(line: Line) -> Result:
    if line.succeeded:
        return Result("succeeded", {"output": line.output})
    error = line.raw.get("error") or {"code": line.state, "message": f"the line was {line.state}"}
    return Result(line.state, {"error": error})


# As jobs -------------------------------------------------------------------------------------------


def _by_jobs(service: SyncMLServiceClient, run: Run, source: Path, start: int, concurrency: int) -> Iterator[Result]:
    """The same input again is the same job."""
    taken: deque[Bad | None] = deque()  # lines whose result was not given yet; None: it is at work
    numbers: dict[int, int] = {}  # of an input of `map`: its line

    def good() -> Iterable[Any]:
        count = 0
        for number, value in enumerate(_values(run, source, start), start):
            if isinstance(value, Bad):
                taken.append(value)
            else:
                taken.append(None)
                numbers[count] = number
                count += 1
                yield value

    options: Any = run.options
    outputs = service.map(
        run.model,
        good(),
        concurrency=concurrency,
        return_errors=True,
        key=lambda index: run.key(numbers.pop(index)),
        **options,
    )
    for output in outputs:
        while isinstance(bad := taken.popleft(), Bad):
            yield _bad(bad)
        yield _of_job(output)
    for left in taken:
        assert isinstance(left, Bad)  # noqa: S101 - what is at work was given
        yield _bad(left)


def _of_job(output: Any) -> Result:
    """Raises what is not this input's fault."""
    if not isinstance(output, Exception):
        return Result("succeeded", {"output": output})
    its_own = isinstance(output, TooLarge) or (isinstance(output, JobError) and _is_of_input(output))
    if not isinstance(output, MLServiceError) or not its_own:
        raise output
    error: dict[str, Any] = {"code": output.code, "message": output.detail}
    if output.errors:
        error["errors"] = [{"pointer": one.pointer, "code": one.code, "message": one.message} for one in output.errors]
    return Result("canceled" if output.code == "canceled" else "failed", {"error": error})


def _is_of_input(error: JobError) -> bool:
    """It was a job and has ended so, or it was refused for what it says."""
    return exit_code(error) != ERROR or error.code == "invalid_input"


def _bad(value: Bad) -> Result:
    return Result("failed", {"error": {"code": "invalid_input", "message": value.message}})
