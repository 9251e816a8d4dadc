"""Handlers that ask too much of a real GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from worker.handler import Context, Handler


class Ask(BaseModel):
    """`share` of the device's memory for this item; an `index` into a table of ten, while the file `flag` exists."""

    share: float = 0.0
    index: int = 0
    flag: str = ""


class Greedy(Handler[Ask, Ask]):
    """Takes for a batch what its items ask together, and looks each index up on the device."""

    task = "greedy"
    example = [Ask()]

    def load(self, ctx: Context) -> None:
        """A table of ten on the device."""
        import torch

        self.torch, self.device = torch, ctx.device
        self.total = torch.cuda.get_device_properties(ctx.device).total_memory
        self.table = torch.arange(10, device=ctx.device)

    def predict(self, batch: list[Ask]) -> list[Any]:
        """Out of memory above one; an index beyond the table is an assertion on the device: its context breaks."""
        wanted = int(self.total * sum(ask.share for ask in batch))
        taken = self.torch.empty(wanted, dtype=self.torch.uint8, device=self.device)
        indexes = [ask.index if not ask.flag or Path(ask.flag).exists() else 0 for ask in batch]
        self.table[self.torch.tensor(indexes, device=self.device)].tolist()
        del taken
        return batch
