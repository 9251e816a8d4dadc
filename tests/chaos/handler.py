"""The model that is served: a known answer, after a while, with every execution in the journal."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic import BaseModel

from tests.chaos import reference
from tests.chaos.journal import Writer
from worker.handler import Context, Handler

_BATCH_S, _ITEM_S = 0.1, 0.005  # so long that a worker under load nearly always has a batch in progress


class Question(BaseModel):
    """See reference.question."""

    seed: int
    n: int
    text: str


class Answer(BaseModel):
    """See reference.answer."""

    n: int
    digest: str
    length: int


class Reckon(Handler[Question, Answer]):
    """Sleeps instead of computing: two cores carry the whole stack and its callers."""

    task = "reckon"
    example = [Question(seed=0, n=-1, text="warm me up")]
    uses_torch = False
    side_by_side = True

    def load(self, ctx: Context) -> None:
        """The journal's place comes from the driver."""
        self.journal = Writer(Path(os.environ["CHAOS_JOURNAL"]), os.environ["ML_WORKER_NAME"])

    def predict(self, batch: list[Question]) -> list[Answer]:
        """The warm-up's example is no job."""
        numbers = [question.n for question in batch if question.n >= 0]
        batch_number = 0
        if numbers:
            batch_number = self.journal.begin(numbers)
            time.sleep(_BATCH_S + _ITEM_S * len(batch))
        answers = [Answer(**reference.answer(q.seed, q.n, q.text)) for q in batch]
        if numbers:
            self.journal.end(batch_number, numbers)
        return answers
