"""The client for threads: `aio` without await. A test holds the two to the same methods."""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import httpx

from ml_service_client import webhooks
from ml_service_client.arrays import Array
from ml_service_client.core import batches, bodies, calls, files, plan
from ml_service_client.core.config import DEFAULT_TIMEOUT_S, Config, configure
from ml_service_client.core.retries import Policy
from ml_service_client.core.steps import Call, Request, Sleep
from ml_service_client.core.streams import Events, Lines, Stream
from ml_service_client.progress import Told, bar
from ml_service_client.records import Batch, Delivery, File, Line, Model, WebhookSecret
from ml_service_client.types import Answer, Event, Job, Json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ml_service_client.core.options import CallOptions

T = TypeVar("T")

_Landed = tuple[plan.Item, Any, "Exception | None"]
_LOOK_S = 1.0  # so that Ctrl-C is heard on every system


class SyncMLServiceClient:
    """Talks to one ml-service; make one for the life of your program, and `close` it at the end (or `with`).

    `base_url` and `api_key` come from ML_SERVICE_URL and ML_SERVICE_API_KEY if not given. `timeout` (seconds, or an
    httpx.Timeout) is for each attempt; what the service is asked to hold may take as much longer. `retries` is how many
    attempts may follow the first, where that is safe: every call that makes work has an Idempotency-Key of its own.
    `transport` is httpx's, for tests and proxies. Errors: `ml_service_client.errors`, and httpx.TransportError.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT_S,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._config: Config = configure(base_url, api_key, timeout, retries, headers)
        self.base_url = self._config.base_url
        self.client = httpx.Client(
            base_url=self.base_url,
            headers=self._config.headers,
            timeout=self._config.timeout,
            limits=self._config.limits,
            transport=transport,
        )

    verify_webhook = staticmethod(webhooks.verify_webhook)

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()

    def __enter__(self) -> SyncMLServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def with_options(
        self, *, timeout: float | httpx.Timeout | None = None, retries: int | None = None
    ) -> SyncMLServiceClient:
        """The same connections with other patience: `client.with_options(timeout=5).inference(...)`."""
        other = copy.copy(self)
        other._config = self._config.having(timeout, retries)
        return other

    # One input --------------------------------------------------------------------------------

    def inference(self, model_type: str, data: Any, **options: Unpack[CallOptions]) -> Answer:
        """Run a model and wait for its output: `answer["output"]`. A job that goes on after the wait is WaitEnded."""
        return self._run(calls.inference(self._policy, model_type, data, options, self._config.patience_s))

    def inference_array(self, model_type: str, data: Any, **options: Unpack[CallOptions]) -> Array:
        """The same for an embedding, as binary floats: a third of the bytes, and nothing to parse."""
        return self._run(calls.inference_array(self._policy, model_type, data, options, self._config.patience_s))

    def submit(self, model: str | None, input: Any, *, wait_s: float = 0.0, **options: Unpack[CallOptions]) -> Job:
        """Queue a job. With `wait_s` (up to 25) the answer is held until it has ended, if it ends in time."""
        return self._run(calls.submit(self._policy, model, input, options, wait_s))

    def get(self, job: Job | str) -> Job:
        """The job as it is now."""
        return self._run(calls.get(self._policy, job))

    def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """The job when it has ended, with its output: `job.result()`. WaitEnded (a TimeoutError) after `timeout_s`."""
        return self._run(calls.wait(self._policy, job, timeout_s))

    def cancel(self, job: Job | str) -> Job:
        """A queued job ends at once, a running one with its batch; one that has ended stays as it is."""
        return self._run(calls.cancel(self._policy, job))

    def output(self, job: Job | str) -> Any:
        """Only the output, however large. Raises NotEnded, or the job's own error."""
        return self._run(calls.output(self._policy, job))

    def output_array(self, job: Job | str) -> Array:
        """The same for an embedding, as binary floats."""
        return self._run(calls.output_array(self._policy, job))

    def jobs(
        self,
        *,
        state: str | Iterable[str] | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        page: int = 50,
    ) -> Iterator[Job]:
        """Your jobs without their outputs, the newest first; pages are fetched as you go on."""
        filters = calls.job_filters(state, model, labels, page)
        cursor: str | None = None
        while True:
            found, cursor = self._run(calls.jobs_page(self._policy, filters, cursor))
            yield from found
            if cursor is None:
                return

    def events(self, job: Job | str) -> Iterator[Event]:
        """What happens to a job, as it happens, to its end. A connection that breaks is made again, and nothing is told
        twice but progress."""
        return self._stream(Events(job, self._policy))

    # Many inputs --------------------------------------------------------------------------------

    def map(
        self,
        model: str | None,
        inputs: Iterable[Any],
        *,
        concurrency: int = 32,
        progress: bool | Told = False,
        return_errors: bool = False,
        key: Callable[[int], str] | None = None,
        **options: Unpack[CallOptions],
    ) -> Iterator[Any]:
        """The output of each input, in their order, `concurrency` at once; any number of inputs in bounded memory.

        When the service holds back (429, 503) this does too. An input that fails raises its error at its place, or,
        with `return_errors`, gives it. `progress`: True for a bar (tqdm or rich, if installed), or called with done,
        failed, total. `key` makes the idempotency key from an input's number: run again with the same keys, what was
        done is not done again. Leave early with `close()` (or `contextlib.closing`).
        """
        calls.no_key(options)
        going = plan.Plan(concurrency, self._policy, time.monotonic(), key)
        shown = bar(progress, len(inputs) if isinstance(inputs, Sized) else None, model or "map")
        source = iter(inputs)
        crew = _Crew(lambda item: self._run(plan.one(self._policy, model, item, options)))
        try:
            while True:
                step = going.next(time.monotonic())
                if isinstance(step, plan.End):
                    return
                if isinstance(step, plan.Give):
                    if isinstance(step.result, Exception) and not return_errors:
                        raise step.result
                    yield step.result
                elif isinstance(step, plan.Pull):
                    try:
                        going.pulled(next(source))
                    except StopIteration:
                        going.exhausted()
                elif isinstance(step, plan.Start):
                    crew.start(step.item)
                elif not crew.busy:
                    time.sleep(step.seconds or 0.0)
                else:
                    crew.land(going, step.seconds)
                    shown.update(going.done, going.bad)
        finally:
            shown.close()
            crew.dismiss()

    def batch(self, model: str | None, inputs: Iterable[Any] | Path, **options: Unpack[CallOptions]) -> Batch:
        """Hand in up to 100,000 inputs in one call (an iterable, or the path of a file of JSON lines)."""
        return self._run(batches.batch(self._policy, model, batches.body(inputs), options))

    def get_batch(self, batch: Batch | str) -> Batch:
        """The batch as it is now."""
        return self._run(batches.get_batch(self._policy, batch))

    def wait_batch(self, batch: Batch | str, timeout_s: float | None = None) -> Batch:
        """The batch when all its lines have ended. WaitEnded (a TimeoutError) after `timeout_s`."""
        return self._run(batches.wait_batch(self._policy, batch, timeout_s))

    def cancel_batch(self, batch: Batch | str) -> Batch:
        """What has not ended is canceled; results that are there stay."""
        return self._run(batches.cancel_batch(self._policy, batch))

    def batches(self, *, page: int = 50) -> Iterator[Batch]:
        """Your batches, the newest first; pages are fetched as you go on."""
        cursor: str | None = None
        while True:
            found, cursor = self._run(batches.batches_page(self._policy, page, cursor))
            yield from found
            if cursor is None:
                return

    def batch_results(self, batch: Batch | str, *, start: int = 0, follow: bool = True) -> Iterator[Line]:
        """What became of each input, in their order, from number `start`. With `follow`, to the last, as they come
        (over broken connections too); without, up to the first that has not ended."""
        found = self.get_batch(batch)
        stream = Lines(found, self._policy, start=start, total=found.counts.total, follow=follow)
        yield from self._stream(stream)

    # Models, files, webhooks --------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """What the service serves."""
        return self._run(calls.models(self._policy))

    def model(self, name: str) -> Model:
        """One model: `name` or `name@version`."""
        return self._run(calls.model(self._policy, name))

    def upload(
        self, content: bytes | Path | IO[bytes] | Iterable[bytes], content_type: str = "application/octet-stream"
    ) -> File:
        """A file to be used as an input, as often as you like, until it expires: `{"image": file}`."""
        return self._run(files.upload(self._policy, bodies.source(content), content_type))

    def file(self, file: File | str) -> File:
        """What is known of a file."""
        return self._run(files.file(self._policy, file))

    def download(self, file: File | str) -> bytes:
        """A file's bytes."""
        return self._run(files.download(self._policy, file))

    def delete_file(self, file: File | str) -> None:
        """Before it expires by itself."""
        self._run(files.delete_file(self._policy, file))

    def webhook_secret(self) -> WebhookSecret:
        """What the webhooks of this API key are signed with; made at the first call."""
        return self._run(files.webhook_secret(self._policy))

    def rotate_webhook_secret(self, grace_s: float = 86_400) -> WebhookSecret:
        """A new secret; for `grace_s` webhooks are signed with the old one too."""
        return self._run(files.rotate_webhook_secret(self._policy, grace_s))

    def deliveries(self, of: Job | Batch | str) -> list[Delivery]:
        """The webhooks of a job or batch, and each try to deliver them."""
        return self._run(files.deliveries(self._policy, of))

    def redeliver(self, of: Job | Batch | str) -> list[Delivery]:
        """Deliver them again, now."""
        return self._run(files.deliveries(self._policy, of, again=True))

    def request(self, method: str, path: str, *, json: Any = None, **more: Any) -> Json:
        """Any other call, with this client's key, retries and errors: `request("GET", "/health")`."""
        return self._run(calls.ask(self._policy, method, path, json=json, **more))

    # The driver: all that waits --------------------------------------------------------------------------------

    @property
    def _policy(self) -> Policy:
        return self._config.policy

    def _run(self, call: Call[T]) -> T:
        try:
            step = next(call)
            while True:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                    step = call.send(None)
                    continue
                try:
                    response = self._send(step)
                except httpx.TransportError as error:
                    step = call.throw(error)
                else:
                    step = call.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _build(self, request: Request) -> httpx.Request:
        content, headers = request.content, dict(request.headers)
        if content is not None and not isinstance(content, bytes):
            headers["Content-Length"] = str(content.size())
        return self.client.build_request(
            request.method,
            request.path,
            params=request.params,
            headers=headers,
            content=content if content is None or isinstance(content, bytes) else content.chunks(),
            timeout=self._config.timeout_of(request),
        )

    def _send(self, request: Request) -> httpx.Response:
        return self.client.send(self._build(request))

    def _stream(self, stream: Stream[T]) -> Iterator[T]:
        while not stream.done:
            request = self._build(stream.request)
            request.extensions["timeout"]["read"] = stream.silence_s
            try:
                response = self.client.send(request, stream=True)
                try:
                    if not response.is_success:
                        response.read()
                    delay = stream.answered(response)
                    if delay is None:
                        for chunk in response.iter_bytes():
                            yield from stream.read(chunk)
                            if stream.done:
                                return
                        delay = 0.0 if stream.done else stream.ended()
                finally:
                    response.close()
            except httpx.TransportError as error:
                delay = stream.lost(error)
            time.sleep(delay)


class _Crew:
    """As many threads as there were items at once. Daemons: an interrupted program does not wait for them."""

    def __init__(self, work: Callable[[plan.Item], Any]) -> None:
        self.busy = 0
        self._work = work
        self._todo: queue.SimpleQueue[plan.Item | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[_Landed] = queue.SimpleQueue()
        self._threads = 0

    def start(self, item: plan.Item) -> None:
        """Soon done by a thread."""
        self.busy += 1
        if self.busy > self._threads:
            self._threads += 1
            threading.Thread(target=self._serve, name=f"ml-map-{self._threads}", daemon=True).start()
        self._todo.put(item)

    def land(self, going: plan.Plan, seconds: float | None) -> None:
        """Tell the plan what has come back; waits for the first, so long at most."""
        with contextlib.suppress(queue.Empty):
            item, result, error = self._done.get(timeout=_LOOK_S if seconds is None else min(seconds, _LOOK_S))
            while True:
                self.busy -= 1
                if error is None:
                    going.landed(item, result, time.monotonic())
                else:
                    going.failed(item, error, time.monotonic())
                item, result, error = self._done.get_nowait()

    def dismiss(self) -> None:
        """No more; who is at work ends his call."""
        for _ in range(self._threads):
            self._todo.put(None)

    def _serve(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                self._done.put((item, self._work(item), None))
            except Exception as error:
                self._done.put((item, None, error))
