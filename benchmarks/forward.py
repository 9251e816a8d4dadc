"""The limit: the same handler in this process, nothing around it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from shared.catalog import Ref, load_catalog
from shared.model_spec import VersionSpec
from shared.settings import Settings
from worker.handler_class import handler_class
from worker.models import LoadedModel, load_model

B = TypeVar("B")
R = TypeVar("R")


@dataclass(slots=True)
class Run:
    """One pass over texts, with the time of `each`. `vectors` as an answer carries them: [N, H], normalised."""

    rate: float
    took_s: float
    vectors: Any


def load(models_file: Path, name: str, device: str, **fields: Any) -> LoadedModel:
    """The newest version of `name`, with other `fields` of it where they are given, by the worker's own loader."""
    catalog = load_catalog(models_file)
    ref = catalog.resolve(name)
    spec = catalog.spec(name)
    version = VersionSpec.model_validate(spec.versions[ref.version].model_dump() | fields)
    kind = handler_class(spec, version, base=models_file.parent)
    # Locks of its own: it takes turns with the service's worker, so it has all cores, as that one has.
    with tempfile.TemporaryDirectory(prefix="ml-bench-") as locks:
        settings = Settings(models_file=models_file, lock_dir=Path(locks))
        return load_model(Ref(ref.model, ref.version), spec, version, kind, device=device, settings=settings)


def each(model: LoadedModel, batches: Sequence[B], one: Callable[[B], R]) -> tuple[list[R], float]:
    """What `one` makes of each, in order: as many at a time as the worker would run (its streams), in threads with a
    part of the cores each; a single batch in this thread with all of them. And the seconds that it took, as if the
    streams had ended together: one that has nothing left while another ends its last batch says nothing of the limit
    (three batches in two streams would be a quarter slower than four)."""

    def timed(batch: B) -> tuple[R, float]:
        begun = perf_counter()
        return one(batch), perf_counter() - begun

    if model.streams == 1 or len(batches) < 2:
        done, streams = [timed(batch) for batch in batches], 1
    else:
        import torch

        streams = model.streams
        part = max(1, torch.get_num_threads() // streams)
        with ThreadPoolExecutor(streams, initializer=torch.set_num_threads, initargs=(part,)) as threads:
            done = list(threads.map(timed, batches))
    return [made for made, _ in done], sum(seconds for _, seconds in done) / streams


def run(model: LoadedModel, texts: Sequence[str], size: int) -> Run:
    """Prepare and predict `texts`, `size` a predict, in the model's streams."""
    handler: Any = model.handler  # of a text-embedding model: one chunk an item
    item = model.task.item
    parameters = model.task.parameters()
    items = [item(text=text) for text in texts]

    def predicted(start: int) -> Any:
        prepared = [handler.prepare(one, parameters) for one in items[start : start + size]]
        return handler.predict([one.item for one in prepared])

    batches, took_s = each(model, range(0, len(items), size), predicted)
    outputs = [output for some in batches for output in some]
    answers = [handler.finish([o], i, parameters) for o, i in zip(outputs, items, strict=True)]
    return Run(len(texts) / took_s, took_s, np.stack([answer["embedding"] for answer in answers]))


def lone(model: LoadedModel, texts: Sequence[str]) -> list[float]:
    """Seconds of prepare and predict of each text alone."""
    return [run(model, [text], 1).took_s for text in texts]


def token_counts(model: LoadedModel, texts: Sequence[str]) -> list[int]:
    """Tokens of each text as the model reads it, cut at its limit."""
    handler: Any = model.handler
    parameters = model.task.parameters()
    return [handler.prepare(model.task.item(text=text), parameters).cost for text in texts]


def padding_share(model: LoadedModel, counts: Sequence[int], size: int) -> float:
    """Padding tokens by all tokens of the passes that `predict` makes of batches of `size` in order; 0 for a model
    that runs packed."""
    if not model.padded:
        return 0.0
    handler: Any = model.handler
    paid = 0
    for start in range(0, len(counts), size):
        batch = [[0] * count for count in counts[start : start + size]]
        for places in handler._passes(batch):
            paid += len(places) * max(len(batch[place]) for place in places)
    return 1 - sum(counts) / paid


def alike(ours: Any, theirs: Any) -> float:
    """The least cosine between rows."""
    ours, theirs = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, np.asarray(theirs, np.float32)))
    return float((ours * theirs).sum(axis=1).min())
