"""How many tokens a text model reads."""

from __future__ import annotations

from typing import Any

NO_LIMIT = 1_000_000  # tokenizers that know no limit say 1e30


def most_tokens(told: int | None, tokenizer: int, model: Any) -> int:
    """What the files say (`told`, else the tokenizer), never above the model's table of positions; from NO_LIMIT on
    nobody says. `model`: transformers', or None."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    positions = getattr(text, "max_position_embeddings", None) or NO_LIMIT
    embeddings = getattr(getattr(model, "base_model", None), "embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    if padding is not None:  # RoBERTa and its kin count positions from behind the padding's
        positions -= padding + 1
    return int(min(told or tokenizer, positions, NO_LIMIT))
