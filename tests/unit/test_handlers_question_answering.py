"""Extractive question answering: spans, characters, windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.tasks import NoParameters, QuestionItem
from tests import models
from worker.handler import ItemError
from worker.handlers.question_answering import QuestionAnswering, _Span
from worker.inprocess import run_items, warm_up

models.ready_torch()

SHORT = QuestionItem(question="Who keeps it?", context="The queue keeps the job, and the caller — Zoë — waits.")
LONG = QuestionItem(question="Where?", context=" ".join(f"Word{i} stands at place {i}." for i in range(60)))


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> QuestionAnswering:
    loaded = QuestionAnswering()
    loaded.load(models.context(models.question_answerer(tmp_path_factory.mktemp("qa"))))
    return loaded


def by_hand(handler: QuestionAnswering, item: QuestionItem) -> tuple[float, int, int]:
    """The definition, in loops: unpadded, one window."""
    import torch

    encoded = handler.tokenizer(item.question, item.context, return_offsets_mapping=True, return_tensors="pt")
    offsets, sequence = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
    with torch.inference_mode():
        output = handler.model(**encoded)
    inside = [i for i, part in enumerate(sequence) if part == 1]
    starts = output.start_logits[0, inside].softmax(0).tolist()
    ends = output.end_logits[0, inside].softmax(0).tolist()
    best = (-1.0, 0, 0)
    for a in range(len(inside)):
        for b in range(a, min(a + handler.max_answer, len(inside))):
            best = max(best, (starts[a] * ends[b], offsets[inside[a]][0], offsets[inside[b]][1]))
    return best


def test_the_span_is_the_one_that_the_definition_gives(handler: QuestionAnswering) -> None:
    answer = run_items(handler, [SHORT], NoParameters())[0]
    score, start, end = by_hand(handler, SHORT)
    assert (answer["start"], answer["end"]) == (start, end)
    assert answer["score"] == pytest.approx(score, rel=1e-4)
    assert answer["answer"] == SHORT.context[start:end] != ""


def test_padding_in_a_batch_changes_no_answer(handler: QuestionAnswering) -> None:
    items = [SHORT, LONG, QuestionItem(question="a?", context="b")]
    together = run_items(handler, items, NoParameters())
    for item, answer in zip(items, together, strict=True):
        alone = run_items(handler, [item], NoParameters())[0]
        assert answer["answer"] == alone["answer"]
        assert answer["score"] == pytest.approx(alone["score"], rel=1e-4)


def test_a_long_context_is_read_to_its_end_in_windows(handler: QuestionAnswering) -> None:
    windows = handler.prepare(LONG, NoParameters())
    assert len(windows) > 3
    assert max(window.cost for window in windows) <= 64
    covered: set[int] = set()
    for window in windows:
        for span in window.item.spans:
            covered.update(range(*span) if span else ())
    assert {i for i, letter in enumerate(LONG.context) if not letter.isspace()} <= covered
    answer = run_items(handler, [LONG], NoParameters())[0]
    spans = handler.predict([window.item for window in windows])
    assert answer["score"] == max(span.score for span in spans)
    assert answer["answer"] == LONG.context[answer["start"] : answer["end"]]


def test_the_best_window_wins(handler: QuestionAnswering) -> None:
    outputs = [_Span(0.2, 0, 3), _Span(0.7, 4, 9), _Span(0.1, 10, 13)]
    assert handler.finish(outputs, SHORT, NoParameters()) == {"answer": "queue", "score": 0.7, "start": 4, "end": 9}


def test_a_question_that_leaves_no_room_is_refused(handler: QuestionAnswering) -> None:
    long: Any = QuestionItem(question="why " * 80, context="Because.")
    refused, kept = run_items(handler, [long, SHORT], NoParameters())
    assert isinstance(refused, ItemError)
    assert refused.pointer == "/question"
    assert kept["answer"]


def test_it_warms_up(handler: QuestionAnswering, tmp_path: Path) -> None:
    assert set(warm_up(handler)[0]) == {"answer", "score", "start", "end"}
