"""How long a batch of so many texts takes the repository's bert on this machine's CPU: prepare and predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import forward
from benchmarks.texts import texts

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1, 2, 4, 8, 16, 32, 64)
TEXTS = 192


def batch_seconds() -> dict[str, Any]:
    """Mean seconds by size, all sizes with the same texts (the smallest with the first third of them)."""
    model = forward.load(ROOT / "models.yaml", "bert", "cpu")
    made = texts(TEXTS)
    forward.run(model, made[:64], 16)  # warm
    rows = {}
    for size in SIZES:
        asked = made if size >= 8 else made[: TEXTS // 3]
        rows[str(size)] = forward.run(model, asked, size).took_s / (len(asked) / size)
    return {"model": "bert", "device": "cpu", "texts": TEXTS, "seconds": rows}
