"""Any task of transformers' pipelines, batched across jobs.

transformers' own pipeline object does the work, in four steps instead of one call: `preprocess` in a CPU thread gives
one chunk for an item or several, chunks of different jobs are collated and go through `forward` together in the device
thread, each gets its row back, and `postprocess` makes the answer of an item from its chunks.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.logs import Event, get_logger
from shared.tasks import PIPELINE_TASKS
from worker.compile import compiled
from worker.handler import Context, Handler, ItemError, Prepared
from worker.handlers.pipeline_check import padding_is_harmless
from worker.handlers.pipeline_collate import Batching, batching_of, collate, group_of, row, trim, widen
from worker.handlers.pipeline_examples import examples
from worker.handlers.pipeline_inputs import (
    call_arguments,
    check_frames,
    full_length,
    pipeline_input,
    set_text_limit,
)
from worker.handlers.pipeline_outputs import output_of, with_endings
from worker.quantize import quantized

logger = get_logger("worker")

_COST_IS_ONE = frozenset({"zero-shot-object-detection"})  # its texts are labels; the image is the work


@dataclass(slots=True)
class Chunk:
    """What `predict` gets: the output of `preprocess`, and the parameters of `forward` (equal in one batch)."""

    inputs: Any
    forward: dict[str, Any]
    preprocess: dict[str, Any]


class PipelineHandler(Handler[Any, Any]):
    """One task of transformers' pipelines; `pipeline_handler` makes a subclass for each."""

    padded = True

    def load(self, ctx: Context) -> None:
        """Any thread. Code that a model's files bring along is run only with `trust_remote_code`."""
        from worker.compat import install_torchvision_ops

        install_torchvision_ops()
        import torch
        from jinja2 import TemplateError
        from transformers import pipeline
        from transformers.pipelines.base import ChunkPipeline, PipelineException

        self.pipe: Any = pipeline(  # type: ignore[call-overload]
            self.task,
            model=ctx.source,
            device=ctx.device,
            dtype=getattr(torch, ctx.dtype),
            trust_remote_code=ctx.trust_remote_code,
            **_vocoder(ctx),
        )
        self.pipe.model = compiled(quantized(self.pipe.model, ctx.quantize), ctx.compile, ctx.device)
        _decode_video_with_av(self.pipe)
        self.limit = set_text_limit(self.task, self.pipe)
        self.refuse_overlong = ctx.on_overlong == "refuse"
        self.batching = batching_of(self.task, self.pipe)
        self.chunked = isinstance(self.pipe, ChunkPipeline)
        # A tokenizer keeps how it truncates and pads as state, which each call sets: one at a time.
        self.lock: AbstractContextManager[Any] = threading.Lock() if self.pipe.tokenizer is not None else nullcontext()
        self.faults = (ValueError, PipelineException, TemplateError)  # what pipelines raise for a wrong input
        self.example, self.example_parameters = examples(self.task, self.pipe)  # type: ignore[misc]
        if self.batching is Batching.PADDED and not padding_is_harmless(self):
            logger.warning(Event.MODEL_NOTE, model=f"{ctx.model}@{ctx.version}", note="padding changes its answers")
            self.batching = Batching.EQUAL

    def unload(self) -> None:
        """Drops the model."""
        del self.pipe

    def prepare(self, item: Any, parameters: Any) -> Prepared | list[Prepared]:
        """CPU thread: decode, then the pipeline's `preprocess`."""
        with ExitStack() as files:
            value = pipeline_input(self.task, item, parameters, self.pipe, files)
            if self.task == "mask-generation":  # its preprocess runs the model, so it waits for the device thread
                return self._prepared(value, *self._steps(parameters)[:2])
            try:
                with self.lock:
                    before, forward, _ = self._steps(parameters)
                    made = self.pipe.preprocess(value, **before)
                    chunks = list(made) if self.chunked else [made]
                    notes = self._cut(item, chunks, before)
            except self.faults as error:
                fields = [*type(item).model_fields]
                raise ItemError(str(error), pointer=f"/{fields[0]}" if len(fields) == 1 else "") from error
        if self.task == "video-classification":
            wanted = before.get("num_frames", getattr(self.pipe.model.config, "num_frames", None))
            check_frames(item, chunks[0], wanted)
        prepared = [self._prepared(chunk, before, forward) for chunk in chunks]
        prepared[0].notes = notes
        return prepared if self.chunked else prepared[0]

    def predict(self, batch: list[Chunk]) -> list[Any]:
        """Device thread: one `forward` for the chunks of all jobs in the batch."""
        import torch

        with torch.inference_mode():
            return self._forward(batch)

    def _forward(self, batch: list[Chunk]) -> list[Any]:
        forward, size = batch[0].forward, len(batch)
        if self.task == "mask-generation":
            return [self._masks(chunk) for chunk in batch]
        if size == 1 or self.batching is Batching.SINGLE:
            return [widen(self.pipe.forward(chunk.inputs, **forward)) for chunk in batch]
        output = widen(self.pipe.forward(collate([chunk.inputs for chunk in batch], self.pipe), **forward))
        rows = [row(output, index, size) for index in range(size)]
        return [trim(self.task, one, chunk.inputs, self.pipe) for one, chunk in zip(rows, batch, strict=True)]

    def finish(self, outputs: list[Any], item: Any, parameters: Any) -> Any:
        """Finish thread: the pipeline's `postprocess`, as JSON."""
        import torch

        with self.lock, torch.inference_mode():  # it may change the outputs in place
            _, forward, after = self._steps(parameters)
            if self.task == "mask-generation":
                outputs = outputs[0]
            chunks = [{k: v for k, v in output.items() if k != "is_last"} for output in outputs] if self.chunked else []
            value = self.pipe.postprocess(chunks if self.chunked else outputs[0], **after)
        answer = output_of(self.task, value, self.pipe)
        if self.task == "text-generation" and not isinstance(item.text, str):
            return with_endings(answer, outputs[0], forward, self.pipe)
        return answer

    def _steps(self, parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The parameters of preprocess, forward and postprocess, as the pipeline's own call splits them."""
        pipe, arguments = self.pipe, call_arguments(self.task, parameters, self.pipe.dtype)
        if self.limit is not None and self.task == "text-generation":
            arguments["handle_long_generation"] = "hole"
        try:
            before, forward, after = pipe._sanitize_parameters(**arguments)
        except self.faults as error:
            raise ItemError(str(error)) from error
        return (
            {**pipe._preprocess_params, **before},
            {**pipe._forward_params, **forward},
            {**pipe._postprocess_params, **after},
        )

    def _prepared(self, inputs: Any, before: dict[str, Any], forward: dict[str, Any]) -> Prepared:
        chunk = Chunk(inputs, forward, before)
        if self.batching is Batching.SINGLE:
            return Prepared(chunk, group=group_of({}, self.batching, None))
        ids = None if self.task in _COST_IS_ONE else inputs.get("input_ids")
        batching = Batching.SINGLE if forward.get("return_language") else self.batching  # told of the first row only
        return Prepared(
            chunk,
            cost=1 if ids is None else max(1, ids.shape[0] * ids.shape[1]),
            tokens=0 if ids is None else ids.shape[0] * ids.shape[1],
            group=group_of(inputs, batching, [before, forward]),
        )

    def _cut(self, item: Any, chunks: list[Any], before: dict[str, Any]) -> dict[str, Any] | None:
        """Notes for an item whose text was cut. Raises ItemError where the model refuses such texts."""
        if self.limit is None or "tokenizer_params" in before:  # which reads a long text in windows
            return None
        lengths = (full_length(self.task, item, chunk, self.pipe, self.limit) for chunk in chunks)
        full = next((length for length in lengths if length), None)
        if full is None:
            return None
        if self.refuse_overlong:
            raise ItemError(f"the text has {full} tokens; the model reads at most {self.limit}", pointer="/text")
        return {"truncated": True}

    def _masks(self, chunk: Chunk) -> list[Any]:
        chunks = self.pipe.preprocess(chunk.inputs, **chunk.preprocess)
        return [widen(self.pipe.forward(part, **chunk.forward)) for part in chunks]


def _vocoder(ctx: Context) -> dict[str, Any]:
    """Models that make a spectrogram need a second model for the sound: `vocoder:` in models.yaml, a folder or a
    hub id."""
    if "vocoder" not in ctx.options:
        return {}
    from transformers import SpeechT5HifiGan

    vocoder: Any = SpeechT5HifiGan.from_pretrained(ctx.options["vocoder"])
    return {"vocoder": vocoder.to(ctx.device)}


def _decode_video_with_av(pipe: Any) -> None:
    """transformers' video processors decode with torchcodec or a removed part of torchvision; `av` is what we have."""
    processor = getattr(pipe, "video_processor", None) or getattr(pipe.processor, "video_processor", None)
    if processor is None:
        return
    from transformers.video_utils import load_video

    def fetch(paths: Any, sample_indices_fn: Any = None) -> Any:
        if isinstance(paths, list):  # as the method it replaces: the videos, and what is known of each
            return list(zip(*[fetch(path, sample_indices_fn) for path in paths], strict=True))
        return load_video(paths, backend="pyav", sample_indices_fn=sample_indices_fn)

    processor.fetch_videos = fetch


def pipeline_handler(task_name: str) -> type[PipelineHandler]:
    """The handler of one task of `shared.pipeline_tasks`. Raises KeyError for another name."""

    class _Task(PipelineHandler):
        io: ClassVar = PIPELINE_TASKS[task_name]

    _Task.__name__ = _Task.__qualname__ = "".join(word.title() for word in task_name.split("-")) + "Handler"
    return _Task
