"""How many tokens a model reads: by its files, and never above its table of positions."""

from __future__ import annotations

from typing import Any

import pytest

from tests import models
from worker.handlers.length import NO_LIMIT, most_tokens

models.ready_torch()


def tiny(name: str, **config: Any) -> Any:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    made = getattr(transformers, f"{name}Config")(vocab_size=9, max_position_embeddings=66, **sizes, **config)
    return getattr(transformers, f"{name}ForQuestionAnswering")(made)


@pytest.mark.parametrize(("name", "reads"), [("Bert", 66), ("Roberta", 64)])
def test_a_model_reads_what_its_positions_allow(name: str, reads: int) -> None:
    model = tiny(name)
    assert most_tokens(None, NO_LIMIT * 10, model) == reads, "RoBERTa's first two positions are not for texts"
    assert most_tokens(514, 512, model) == reads
    assert most_tokens(20, 512, model) == 20
    assert most_tokens(None, 30, model) == 30


def test_nobody_says() -> None:
    assert most_tokens(None, 10**30, None) == NO_LIMIT
