"""What the readers of all families fill in, and PackedEncoder runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.handlers.packed.attention import PLAIN, Sight

Step = Callable[[Tensor], Tensor]  # [T, H] to the same


@dataclass(slots=True, frozen=True)
class Linear:
    """One layer, or several side by side as one: `weight` [out, in]."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, *modules: Any) -> Linear:
        """The weights of torch modules that read the same input, all with a bias or all without."""
        if len(modules) == 1:
            bias = modules[0].bias
            return cls(modules[0].weight.detach(), None if bias is None else bias.detach())
        biases = [m.bias for m in modules if m.bias is not None]
        weight = torch.cat([m.weight for m in modules]).detach()
        return cls(weight, torch.cat(biases).detach() if biases else None)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] to [T, out]."""
        return F.linear(x, self.weight, self.bias)


Change = Callable[[Linear], Linear]


@dataclass(slots=True, frozen=True)
class Norm:
    """Layer normalisation."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        """Of torch's module."""
        return cls(module.weight.detach(), None if module.bias is None else module.bias.detach(), module.eps)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, H] to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(slots=True, frozen=True)
class Rotation:
    """Rotary positions (RoFormer, https://arxiv.org/abs/2104.09864): `cos` and `sin` [P, D], by place in the text."""

    cos: Tensor
    sin: Tensor

    def __call__(self, qkv: Tensor, places: Tensor) -> Tensor:
        """[T, 3, heads, D] with query and key turned to their `places` [T]."""
        both, value = qkv[:, :2], qkv[:, 2:]
        cos, sin = (table[places][:, None, None] for table in (self.cos, self.sin))
        first, second = both.chunk(2, dim=-1)
        turned = both * cos + torch.cat((-second, first), dim=-1) * sin
        return torch.cat((turned, value), dim=1)


@dataclass(slots=True, frozen=True, eq=False)
class Layer:
    """Attention, then two linear layers; `up` of a gated one gives what is activated, then its gate."""

    qkv: Linear
    out: Linear
    norm_attention: Step
    up: Linear
    down: Linear
    norm_output: Step
    sight: Sight = PLAIN
    rotation: Rotation | None = None

    def changed(self, change: Change, up: Change) -> Layer:
        """With other linear layers; `up`: what becomes of that."""
        return replace(self, qkv=change(self.qkv), out=change(self.out), up=up(self.up), down=change(self.down))


@dataclass(slots=True)
class Weights:
    """A model, read. `positions` [P, E] are added to the words' embeddings [V, E] from `first_position` on;
    `norm_first`: a layer normalises what it reads (else what it has added up)."""

    words: Tensor
    norm: Step
    layers: list[Layer]
    heads: int
    activation: Step
    positions: Tensor | None = None
    first_position: int = 0
    project: Linear | None = None
    gated: bool = False
    norm_first: bool = False
    norm_last: Step | None = None


def activation(name: str) -> Step:
    """By the name that transformers has for it."""
    from transformers.activations import ACT2FN

    step: Step = F.gelu if name == "gelu" else ACT2FN[name]
    return step
