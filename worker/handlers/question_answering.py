"""The task `question-answering`: the span of a context that answers a question. (transformers 5 has no pipeline for
it any more.)

A context longer than the model reads is cut into overlapping windows; each is one item of a batch, and `finish` picks
the best span of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shared.errors import ConfigError
from shared.tasks import QUESTION_ANSWERING, NoParameters, QuestionItem
from worker.compile import compiled
from worker.handler import Context, Handler, ItemError, Prepared
from worker.handlers.length import most_tokens
from worker.quantize import quantized
from worker.transfer import to_device

STRIDE = 128  # tokens that neighbouring windows share
MAX_WINDOW = 384  # tokens of question and window together, as transformers' own pipeline had it
MAX_ANSWER = 15  # tokens


@dataclass(slots=True, frozen=True)
class _Window:
    fields: dict[str, list[int]]  # input_ids, attention_mask, perhaps token_type_ids
    spans: list[tuple[int, int] | None]  # the characters of each token of the context; None for all others


@dataclass(slots=True, frozen=True)
class _Span:
    score: float
    start: int
    end: int


class QuestionAnswering(Handler[QuestionItem, Any]):
    """Options of a version: `max_answer_tokens` (15), `max_length` (384, never above the model's own)."""

    io: ClassVar = QUESTION_ANSWERING
    example: ClassVar = [QuestionItem(question="Who waits?", context="The queue keeps the job while the caller waits.")]
    padded: ClassVar = True

    def load(self, ctx: Context) -> None:
        """Tokeniser (a fast one: offsets are needed) and weights."""
        import torch
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        from worker.sources import model_folder

        folder = model_folder(ctx.source)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=ctx.trust_remote_code)
        if not self.tokenizer.is_fast:
            raise ConfigError(f"{ctx.source}: question-answering needs a fast tokeniser (tokenizer.json)")
        model = AutoModelForQuestionAnswering.from_pretrained(
            folder, dtype=getattr(torch, ctx.dtype), trust_remote_code=ctx.trust_remote_code
        )
        model = quantized(model.eval().requires_grad_(False).to(ctx.device), ctx.quantize)
        self.model = compiled(model, ctx.compile, ctx.device)
        self.device = ctx.device
        wanted = min(ctx.options.get("max_length", MAX_WINDOW), self.tokenizer.model_max_length)
        self.max_length = most_tokens(wanted, wanted, model)
        self.max_answer = int(ctx.options.get("max_answer_tokens", MAX_ANSWER))

    def prepare(self, item: QuestionItem, parameters: NoParameters) -> list[Prepared]:
        """The windows of the context, each with the question before it (behind it where the model pads left)."""
        question = self.tokenizer(item.question, add_special_tokens=False)["input_ids"]
        room = self.max_length - len(question) - self.tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            message = f"the question has {len(question)} tokens; this model reads {self.max_length} with the context"
            raise ItemError(message, pointer="/question")
        first = self.tokenizer.padding_side == "right"
        pair = (item.question, item.context) if first else (item.context, item.question)
        encoded = self.tokenizer(
            *pair,
            truncation="only_second" if first else "only_first",
            max_length=self.max_length,
            stride=min(STRIDE, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in self.tokenizer.model_input_names if name in encoded]
        windows = []
        for i, offsets in enumerate(encoded["offset_mapping"]):
            of_context = [part == int(first) for part in encoded.sequence_ids(i)]
            spans = [tuple(span) if inside else None for span, inside in zip(offsets, of_context, strict=True)]
            fields = {name: encoded[name][i] for name in names}
            windows.append(Prepared(_Window(fields, spans), cost=len(spans), tokens=len(spans)))
        return windows

    def predict(self, batch: list[_Window]) -> list[_Span]:
        """The best span of each window; its score is the probability over the window's context."""
        import torch

        padded = self.tokenizer.pad([window.fields for window in batch], return_tensors="pt")
        with torch.inference_mode():
            output = self.model(**{name: to_device(value, self.device) for name, value in padded.items()})
            starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
        width, left = starts.shape[1], self.tokenizer.padding_side == "left"
        spans = []
        for i, window in enumerate(batch):
            size = len(window.spans)
            row = slice(width - size, width) if left else slice(0, size)
            spans.append(self._best(starts[i, row], ends[i, row], window))
        return spans

    def _best(self, starts: Any, ends: Any, window: _Window) -> _Span:
        """Softmax over the context's tokens, then the pair start <= end, at most `max_answer` tokens long, with the
        highest product."""
        import torch

        inside = torch.tensor([span is not None for span in window.spans])
        begin = starts.masked_fill(~inside, -torch.inf).softmax(0)
        finish = ends.masked_fill(~inside, -torch.inf).softmax(0)
        scores = torch.outer(begin, finish).triu().tril(self.max_answer - 1)
        place = int(scores.argmax())
        first, last = divmod(place, len(window.spans))
        start, end = window.spans[first], window.spans[last]
        if start is None or end is None:  # a window with no token of the context
            return _Span(0.0, 0, 0)
        return _Span(float(scores[first, last]), start[0], end[1])

    def finish(self, outputs: list[_Span], item: QuestionItem, parameters: NoParameters) -> dict[str, Any]:
        """The best window's span, and its text."""
        best = max(outputs, key=lambda span: span.score)
        return {
            "answer": item.context[best.start : best.end],
            "score": best.score,
            "start": best.start,
            "end": best.end,
        }
