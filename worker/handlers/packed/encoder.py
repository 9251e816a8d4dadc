"""The packed forward itself, the same for all families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.handlers.packed import bert, rotary
from worker.handlers.packed.attention import Attend, Packing, attend_each
from worker.handlers.packed.parts import Change, Layer, Step, Weights
from worker.quantize import Quantize, quantized_weight
from worker.transfer import to_device

Ids = Sequence[Sequence[int]]

READERS: dict[str, Callable[[Any], Weights]] = {
    "bert": bert.bert,
    "roberta": bert.bert,
    "xlm-roberta": bert.bert,
    "camembert": bert.bert,
    "electra": bert.bert,
    "distilbert": bert.distilbert,
    "albert": bert.albert,
    "mpnet": bert.mpnet,
    "modernbert": rotary.modernbert,
    "nomic_bert": rotary.nomic,
    "gte": rotary.nomic,
}


_FILLER = 16  # tokens: texts of their own, which no other sees, and which any model can read


class PackedEncoder:
    """The forward from token ids to packed hidden states [T, H]. It keeps nothing between
    calls, so several device threads may call it at a time."""

    def __init__(self, model: Any, device: str) -> None:
        """`model` a transformers encoder of a family in READERS. Raises TypeError for another."""
        kind = model.config.model_type
        if kind not in READERS:
            raise TypeError(f"no packed forward for {kind}")
        self.device = device
        self.attend: Attend = attend_each
        self.filled: Callable[[int], int] = lambda tokens: tokens  # how many a forward of so many has
        self.weights = READERS[kind](model)

    @property
    def biased(self) -> bool:
        """Whether a layer adds a bias to its scores."""
        return any(layer.sight.bias is not None for layer in self.weights.layers)

    def changed(self, change: Change, *, up: Change | None = None, activation: Step | None = None) -> PackedEncoder:
        """One with other linear layers; all else is the same, and shared. `up`: what becomes of those before the
        activation, if something else; with `activation` in its place."""
        other, weights = copy(self), self.weights
        # ALBERT shares its layers.
        layers = {layer: layer.changed(change, up or change) for layer in dict.fromkeys(weights.layers)}
        other.weights = replace(
            weights,
            layers=[layers[layer] for layer in weights.layers],
            project=weights.project and change(weights.project),
            activation=activation or weights.activation,
        )
        return other

    def quantized(self, kind: Quantize) -> PackedEncoder:
        """With linear layers in int8."""
        return self.changed(lambda linear: replace(linear, weight=quantized_weight(linear.weight, kind)))

    def __call__(self, ids: Ids) -> tuple[Tensor, Tensor]:
        """Hidden states [T, H] of all texts in order, and their lengths [N] on the device."""
        weights, real = self.weights, sum(map(len, ids))
        more = self.filled(real) - real
        fillers = [[0] * min(_FILLER, more - done) for done in range(0, more, _FILLER)]
        ids, texts = [*ids, *fillers], len(ids)
        lengths = [len(text) for text in ids]
        flat = [token for text in ids for token in text]
        first = weights.first_position
        numbers = [place for n in lengths for place in range(first, first + n)]
        tokens, places, sizes = (to_device(torch.tensor(x), self.device) for x in (flat, numbers, lengths))
        offsets = F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
        packing = Packing(lengths, offsets, max(lengths))
        hidden = F.embedding(tokens, weights.words)
        if weights.positions is not None:
            hidden = hidden + F.embedding(places, weights.positions)
        hidden = weights.norm(hidden)
        if weights.project is not None:
            hidden = weights.project(hidden)
        for layer in weights.layers:
            if weights.norm_first:
                hidden = hidden + self._mixed(layer, layer.norm_attention(hidden), packing, places)
                hidden = hidden + self._fed(layer, layer.norm_output(hidden))
            else:
                hidden = layer.norm_attention(hidden + self._mixed(layer, hidden, packing, places))
                hidden = layer.norm_output(hidden + self._fed(layer, hidden))
        if weights.norm_last is not None:
            hidden = weights.norm_last(hidden)
        return hidden[:real], sizes[:texts]

    def _mixed(self, layer: Layer, hidden: Tensor, packing: Packing, places: Tensor) -> Tensor:
        qkv = layer.qkv(hidden).view(len(hidden), 3, self.weights.heads, -1)
        if layer.rotation is not None:
            qkv = layer.rotation(qkv, places)
        return layer.out(self.attend(qkv, packing, layer.sight).reshape(len(hidden), -1))

    def _fed(self, layer: Layer, hidden: Tensor) -> Tensor:
        inner = layer.up(hidden)
        if self.weights.gated:
            inner, gate = inner.chunk(2, dim=-1)
            return layer.down(self.weights.activation(inner) * gate)
        return layer.down(self.weights.activation(inner))
