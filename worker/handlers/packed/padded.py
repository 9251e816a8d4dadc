"""The forward that every encoder has, and whether a packed one gives the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.handlers.packed.encoder import Ids
from worker.transfer import to_device


class PaddedEncoder:
    """Any transformers encoder, by its own forward. Same interface as PackedEncoder; a pass costs len(ids) x the
    longest."""

    def __init__(self, model: Any, device: str, pad_id: int) -> None:
        self.model, self.device, self.pad_id = model, device, pad_id

    def __call__(self, ids: Ids) -> tuple[Tensor, Tensor]:
        """As PackedEncoder: the padding is cut off again."""
        sizes = torch.tensor([len(text) for text in ids])
        width = int(sizes.max())
        mask = torch.arange(width)[None, :] < sizes[:, None]
        tokens = torch.full((len(ids), width), self.pad_id)
        tokens[mask] = torch.tensor([token for text in ids for token in text])
        tokens, mask = to_device(tokens, self.device), to_device(mask, self.device)
        hidden: Tensor = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return hidden[mask], to_device(sizes, self.device)


Encode = Callable[[Ids], tuple[Tensor, Tensor]]


def agrees(encode: Encode, other: Encode, ids: Ids, least_cosine: float) -> str:
    """Empty where both give the same vector for every token; otherwise what is wrong, in words."""
    try:
        ours, theirs = encode(ids)[0].float(), other(ids)[0].float()
    # Whatever a kernel raises on this device and dtype, the answer is the same: not this one.
    except (RuntimeError, NotImplementedError, ImportError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if ours.shape != theirs.shape:
        return f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    cosine = F.cosine_similarity(ours, theirs).min().item()
    return "" if cosine > least_cosine else f"cosine {cosine:.6f} is not above {least_cosine}"
