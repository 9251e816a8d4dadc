"""Attention over texts that lie one after another, each of which sees itself alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(slots=True, frozen=True)
class Packing:
    """Where the texts lie: `lengths` on the host, `offsets` [N + 1] int32 on the device."""

    lengths: list[int]
    offsets: Tensor
    longest: int


@dataclass(slots=True, frozen=True, eq=False)
class Sight:
    """What changes a layer's scores, beside query and key. `window`: a token sees so many to either side (None: all);
    `bias` [heads, L, L] is added to the scores between the first L places of a text."""

    window: int | None = None
    bias: Tensor | None = None

    def mask(self, longest: int, device: torch.device) -> Tensor | None:
        """For scaled_dot_product_attention, [1 or heads, longest, longest]; None where each token sees all alike."""
        if self.bias is not None:
            return self.bias[:, :longest, :longest]
        if self.window is None or longest <= self.window + 1:
            return None
        places = torch.arange(longest, device=device)
        return ((places[:, None] - places).abs() <= self.window)[None]


PLAIN = Sight()

Attend = Callable[[Tensor, Packing, Sight], Tensor]
"""From query, key and value side by side, [T, 3, heads, D], to [T, heads, D]."""


def attend_kernel(qkv: Tensor, packing: Packing, sight: Sight) -> Tensor:
    """Flash attention over variable lengths: CUDA, half precision, no bias."""
    from torch.nn.attention.varlen import varlen_attn

    if sight.bias is not None:
        raise NotImplementedError("the kernel adds no bias to scores")
    query, key, value = qkv.unbind(1)
    ends, longest = packing.offsets, packing.longest
    seen = -1 if sight.window is None else sight.window
    out = varlen_attn(query, key, value, ends, ends, longest, longest, window_size=(seen, seen))
    return out if isinstance(out, Tensor) else out[0]


def attend_jagged(qkv: Tensor, packing: Packing, sight: Sight) -> Tensor:
    """Nested tensors: the memory-efficient kernel, which also takes float32 on CUDA. No bias, no window."""
    if sight.mask(packing.longest, qkv.device) is not None:
        raise NotImplementedError("nested tensors take no mask")
    parts = [
        torch.nested.nested_tensor_from_jagged(
            part.contiguous(), packing.offsets.long(), min_seqlen=1, max_seqlen=packing.longest
        )
        for part in qkv.unbind(1)
    ]
    query, key, value = (part.transpose(1, 2) for part in parts)
    out: Tensor = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return out.values()


def attend_each(qkv: Tensor, packing: Packing, sight: Sight) -> Tensor:
    """One scaled dot product a text: the fastest on a CPU."""
    mask = sight.mask(packing.longest, qkv.device)
    outs = []
    for part in torch.split(qkv, packing.lengths):
        query, key, value = part.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        seen = None if mask is None else mask[None, :, : len(part), : len(part)]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        outs.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(outs)


def attentions(device: str, *, biased: bool = False) -> list[Attend]:
    """Ways to attend on this device, best first; those that a dtype or build lacks raise when they are tried. None
    where scores have a bias and the device is a GPU: a call a text costs more there than padding."""
    if device.startswith("cuda"):
        return [] if biased else [attend_kernel, attend_jagged, attend_each]
    return [attend_each]
