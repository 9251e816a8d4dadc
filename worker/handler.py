"""The only file to read to serve a model of your own.

Write one class, name it in `models.yaml` (`handler: my/model.py:MyModel`), check it with `ml-service check`:

    class Text(BaseModel):
        text: str

    class Label(BaseModel):
        label: str
        score: float

    class Sentiment(Handler[Text, Label]):
        task = "text-classification"
        example = [Text(text="warm me up")]

        def load(self, ctx: Context) -> None:
            from transformers import pipeline            # heavy imports live here
            self.model = pipeline("text-classification", model=ctx.source, device=ctx.device)

        def predict(self, batch: list[Text]) -> list[Label | ItemError]:
            return [Label(**r) for r in self.model([t.text for t in batch])]

What the service does around it: jobs of many callers wait in one queue; when the device is free the waiting items
make a batch (bounded by `batch.max_size` and `batch.max_cost`), `predict` gets the list and returns one output for
each item in the same order. A job whose input is a list is split into items before and joined after. What takes long
may tell its callers how far it is: `self.progress(position, 0.4, "page 2 of 5")`. A model that only asks somebody else
(`concurrency = 16`) is asked so often at a time, beside the device.

Threads: `load` and the warm-up run in a thread of their own, before the worker is ready or, of a lazy version and of
one that comes later, while other models serve. `prepare` in a small pool of CPU threads, `predict` in the one device
thread (with `concurrency` or `side_by_side` in several), `finish` in the finish thread. So `prepare` and `finish` must
not touch what `predict` changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

from shared.tasks import NoParameters, Task

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out")
OnProgress = Callable[[int, float | None, str | None], None]  # position in the batch, fraction, message
OnPiece = Callable[[int, str], None]  # position in the batch, text


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears what a handler tells while it predicts a batch."""

    progress: OnProgress
    piece: OnPiece


_HEARS: ContextVar[Listener | None] = ContextVar("hears", default=None)


class ItemError(Exception):
    """Return it in place of an output (or raise it in `prepare`) to fail this item alone.

    `code` is what the client reads: `invalid_input` (the default) or `predict_error`. `pointer` is a JSON pointer
    inside the item ("/text"), empty for the item itself.
    """

    def __init__(self, message: str, *, code: str = "invalid_input", pointer: str = "") -> None:
        super().__init__(message)
        self.message, self.code, self.pointer = message, code, pointer


class DeviceLost(Exception):
    """Raise it in `predict` when the device is gone or broken for this process. Its jobs go back to the queue, and the
    worker ends (exit code 70), to be started again. CUDA's own errors are recognised without it."""


class TryLater(Exception):
    """Raise it in `predict` when whom the handler asks cannot serve now: the items wait and are tried again, as long as
    their jobs' deadlines allow. With `after_s` (a day at most) nothing more is asked until then: of a handler with
    `concurrency` by the whole version, else of these items. Without it is a failure of the moment: each item is tried
    `retries` times more, after pauses that grow, and then fails with `code`."""

    def __init__(self, message: str, *, after_s: float | None = None, code: str = "provider_error") -> None:
        super().__init__(message)
        self.message, self.after_s, self.code = message, after_s, code


class NotYet(TryLater):
    """What this service itself does not ask more often: `after_s` is when it will, and nobody has refused anything."""


@dataclass(slots=True, frozen=True)
class Answered:
    """Return it in place of an output that only now is known to have cost: tokens `read` and `written`, and what they
    are charged (`cost`, in whatever currency your prices are)."""

    output: Any
    read: int = 0
    written: int = 0
    cost: float = 0.0


@dataclass(slots=True, frozen=True)
class Context:
    """What `load` gets. `source` is a hub id, a folder's path or whatever stands in models.yaml, already resolved:
    `package:NAME` has become the folder inside that distribution, a hub id or an archive the folder of its files."""

    model: str
    version: str
    source: str
    device: str = "cpu"  # a torch device string: "cpu", "cuda:0"
    dtype: str = "float32"
    quantize: Literal["int8"] | None = None  # see worker/quantize.py; a handler of your own may use or ignore it
    compile: bool = False  # see worker/compile.py; as above
    revision: str | None = None  # of the source, for who fetches it himself
    trust_remote_code: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # the version's other fields: weights, labels, pooling ...
    cache_dir: Path | None = None
    on_overlong: str = "truncate"  # or "refuse": what to do with an input over the model's own limit
    max_batch_size: int = 64
    timeout_s: float = 60.0  # what one `predict` may take
    allowance: Any = None  # of a managed provider with a rate (worker/providers/allowance.py)


@dataclass(slots=True)
class Prepared:
    """What `prepare` returns: the thing that `predict` gets, and what it weighs in a batch.

    `cost`: tokens for text, 1 otherwise; `tokens`: for who is charged by them. `group`: only items of one group share a
    batch (a shape, a parameter that changes the forward). `notes` travel to the answer (`{"truncated": true}`).
    """

    item: Any
    cost: int = 1
    group: Hashable = ()
    notes: dict[str, Any] | None = None
    tokens: int = 0


def with_notes(answer: Any, notes: dict[str, Any]) -> Any:
    """An item's answer with the notes of its chunks: in the object, or in each object of a list."""
    if not notes:
        return answer
    if isinstance(answer, BaseModel):
        answer = answer.model_dump(exclude_none=True)
    if isinstance(answer, dict):
        return answer | notes
    if isinstance(answer, list):
        return [with_notes(one, notes) for one in answer]
    return answer


class Handler(Generic[In, Out]):
    """Runs one version of a model. Subclass as `Handler[YourInput, YourOutput]` (pydantic models of one item)."""

    task: ClassVar[str] = "custom"
    example: ClassVar[Sequence[Any]] = ()  # inputs of one item each: warm-up, `ml-service check`, the docs
    parameters: ClassVar[type[BaseModel]] = NoParameters  # of a job; a client that sends others gets 422
    example_parameters: dict[str, Any] = {}  # what the examples need beside, where they need any
    uses_torch: ClassVar[bool] = True  # False: neither torch nor torchvision is imported for it
    quick: ClassVar[bool] = False  # prepare and finish of one item of some KB take a ms at most, and never wait
    padded: ClassVar[bool] = False  # predict pads to its longest item: a batch costs len(batch) x max(cost)
    side_by_side: bool = False  # predict may run in several threads at once: on a CPU it does where that is faster
    concurrency: int = 0  # calls of `predict` at a time, in threads of their own; 0: one, in the device thread
    retries: int = 4  # after TryLater without a time
    max_size: int | None = None  # of a batch, whatever models.yaml says
    hears: Listener | None = None  # the worker's, while `predict` runs in the device thread
    io: ClassVar[Task]  # how a job's input splits into items and outputs join; made from the type arguments

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if {"prepare", "finish"} & set(cls.__dict__) and "quick" not in cls.__dict__:
            cls.quick = False  # another's word for what is its own no more
        if "io" in cls.__dict__:
            cls.task, cls.parameters = cls.io.name, cls.io.parameters
            return
        for base in cls.__dict__.get("__orig_bases__", ()):
            args = get_args(base)
            if len(args) == 2 and not isinstance(args[0], TypeVar):
                cls.io = Task(name=cls.task, item=args[0], output=args[1], parameters=cls.parameters)
                return
        if hasattr(cls, "io") and {"task", "parameters"} & set(cls.__dict__):
            cls.io = replace(cls.io, name=cls.task, parameters=cls.parameters)

    def load(self, ctx: Context) -> None:
        """Load weights onto `ctx.device`. Any exception means: this version fails to load, and its text is told."""

    def prepare(self, item: In, parameters: Any) -> Prepared | Sequence[Prepared]:
        """Decode, tokenise; CPU only. Several `Prepared` are chunks of one item: `predict` sees them like items, and
        `finish` gets their outputs together. Raise `ItemError` for an input that cannot be served."""
        return Prepared(item)

    def predict(self, batch: list[Any]) -> Sequence[Any]:
        """One output for each `Prepared.item`, in order; an `ItemError` in place of an output fails that one.
        If it raises, the batch is halved until the culprits are found; only they fail."""
        raise NotImplementedError

    def progress(self, position: int, fraction: float | None, message: str | None = None) -> None:
        """Call it in `predict`, from any thread, as often as you like: `batch[position]` is done to `fraction` (0 to 1;
        None: not known), and what its caller may read of it. It never fails a job, costs less than a microsecond, and
        the last word of each job goes out twice a second at most. Does nothing outside of a worker."""
        if (hears := _HEARS.get() or self.hears) is not None:
            hears.progress(position, fraction, message)

    def say(self, position: int, text: str) -> None:
        """Call it in `predict` as an answer grows: `text` is its next piece. Who follows the job reads along; the
        output is what counts. As cheap and as harmless as `progress`."""
        if (hears := _HEARS.get() or self.hears) is not None:
            hears.piece(position, text)

    @contextmanager
    def heard(self, hears: Listener | None) -> Iterator[None]:
        """The worker's, around `predict`. With `concurrency` or `side_by_side` each call has its own, and what it tells
        from threads of its own is not heard."""
        if self.concurrency or self.side_by_side:
            token = _HEARS.set(hears)
            try:
                yield
            finally:
                _HEARS.reset(token)
        else:
            self.hears = hears
            try:
                yield
            finally:
                self.hears = None

    def finish(self, outputs: list[Any], item: In, parameters: Any) -> Any:
        """The answer for one item (a pydantic model or plain JSON data) from the outputs of its chunks."""
        return outputs[0]

    def warm(self) -> list[Any]:
        """Further inputs to run before ready, beside `example`: the real range of shapes."""
        return []

    def use_budget(self, max_cost: int) -> None:
        """While `max_cost: auto` is calibrated at load (worker/calibrate.py), and then with what came of it: what a
        batch costs at most. For a `predict` that cuts its batch into forwards of its own."""

    def unload(self) -> None:
        """Free what `load` took."""


class FreeForm(BaseModel):
    """An input model for handlers that take any JSON object."""

    model_config = ConfigDict(extra="allow")
