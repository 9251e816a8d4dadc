"""A BERT-family encoder without padding: the tokens of a batch lie one after another, [T, H], in every layer.

Only attention looks at texts as such; all else is per token, so short texts pay nothing for long ones. The weights of
query, key and value are fused once at load. `agrees` holds every use to the model's own padded forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.quantize import Quantize, quantized_weight
from worker.transfer import to_device

Ids = Sequence[Sequence[int]]
Attend = Callable[[Tensor, "Packing"], Tensor]


@dataclass(slots=True, frozen=True)
class Packing:
    """Where the texts lie: `lengths` on the host, `offsets` [N + 1] int32 on the device."""

    lengths: list[int]
    offsets: Tensor
    longest: int


def _attend_kernel(qkv: Tensor, packing: Packing) -> Tensor:
    """Flash attention over variable lengths: CUDA, half precision."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unbind(1)
    ends, longest = packing.offsets, packing.longest
    out = varlen_attn(query, key, value, ends, ends, longest, longest)
    return out if isinstance(out, Tensor) else out[0]


def _attend_jagged(qkv: Tensor, packing: Packing) -> Tensor:
    """Nested tensors: the memory-efficient kernel, which also takes float32 on CUDA."""
    parts = [
        torch.nested.nested_tensor_from_jagged(
            part.contiguous(), packing.offsets.long(), min_seqlen=1, max_seqlen=packing.longest
        )
        for part in qkv.unbind(1)
    ]
    query, key, value = (part.transpose(1, 2) for part in parts)
    out: Tensor = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return out.values()


def _attend_each(qkv: Tensor, packing: Packing) -> Tensor:
    """One scaled dot product a text: the fastest on a CPU."""
    outs = []
    for part in torch.split(qkv, packing.lengths):
        query, key, value = part.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        outs.append(F.scaled_dot_product_attention(query, key, value).squeeze(0).transpose(0, 1))
    return torch.cat(outs)


def attentions(device: str) -> list[Attend]:
    """Ways to attend on this device, best first; those that a dtype or build lacks raise when they are tried."""
    if device.startswith("cuda"):
        return [_attend_kernel, _attend_jagged, _attend_each]
    return [_attend_each]


@dataclass(slots=True, frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(slots=True, frozen=True)
class _Layer:
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    norm_attention: _Norm
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    norm_output: _Norm


class PackedEncoder:
    """The forward from token ids to packed hidden states [T, H]. Device thread only."""

    def __init__(self, model: Any, device: str) -> None:
        """`model` a transformers BertModel, RoBERTa-like or DistilBertModel. Raises TypeError for another."""
        self.device = device
        self.attend: Attend = _attend_each
        kind = model.config.model_type
        if kind not in _READERS:
            raise TypeError(f"no packed forward for {kind}")
        embeddings = model.embeddings
        self.words = embeddings.word_embeddings.weight.detach()
        positions = embeddings.position_embeddings.weight.detach()
        padding = getattr(embeddings, "padding_idx", None)  # RoBERTa counts from behind it
        self.first_position = 0 if padding is None else padding + 1
        types = getattr(embeddings, "token_type_embeddings", None)
        self.positions = positions if types is None else positions + types.weight[0].detach()
        self.norm = _norm(embeddings.LayerNorm)
        self.heads = model.config.num_attention_heads
        self.layers = _READERS[kind](model)
        self.activation = _activation(model)

    def quantize(self, kind: Quantize) -> None:
        """Its linear layers, from now on."""

        def changed(linear: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return quantized_weight(linear[0], kind), linear[1]

        self.layers = [
            replace(
                layer,
                qkv=changed(layer.qkv),
                out=changed(layer.out),
                up=changed(layer.up),
                down=changed(layer.down),
            )
            for layer in self.layers
        ]

    def __call__(self, ids: Ids) -> tuple[Tensor, Tensor]:
        """Hidden states [T, H] of all texts in order, and their lengths [N] on the device."""
        lengths = [len(text) for text in ids]
        places = [i for n in lengths for i in range(self.first_position, self.first_position + n)]
        flat = [token for text in ids for token in text]
        tokens, places_, sizes = (to_device(torch.tensor(x), self.device) for x in (flat, places, lengths))
        offsets = F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
        packing = Packing(lengths, offsets, max(lengths))
        hidden = self.norm(F.embedding(tokens, self.words) + F.embedding(places_, self.positions))
        for layer in self.layers:
            qkv = F.linear(hidden, *layer.qkv).view(len(flat), 3, self.heads, -1)
            mixed = self.attend(qkv, packing).reshape(len(flat), -1)
            hidden = layer.norm_attention(hidden + F.linear(mixed, *layer.out))
            inner = self.activation(F.linear(hidden, *layer.up))
            hidden = layer.norm_output(hidden + F.linear(inner, *layer.down))
        return hidden, sizes


class PaddedEncoder:
    """Any transformers encoder, by its own forward. Same interface; a pass costs len(ids) x the longest."""

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


def agrees(packed: PackedEncoder, padded: PaddedEncoder, ids: Ids, least_cosine: float) -> str:
    """Empty where both give the same vector for every token; otherwise what is wrong, in words."""
    try:
        ours, theirs = packed(ids)[0].float(), padded(ids)[0].float()
    # Whatever a kernel raises on this device and dtype, the answer is the same: not this one.
    except (RuntimeError, NotImplementedError, ImportError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if ours.shape != theirs.shape:
        return f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    cosine = F.cosine_similarity(ours, theirs).min().item()
    return "" if cosine > least_cosine else f"cosine {cosine:.6f} is not above {least_cosine}"


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight.detach(), module.bias.detach(), module.eps)


def _linear(*modules: Any) -> tuple[Tensor, Tensor]:
    """One layer, or several side by side as one."""
    if len(modules) == 1:
        return modules[0].weight.detach(), modules[0].bias.detach()
    return torch.cat([m.weight for m in modules]).detach(), torch.cat([m.bias for m in modules]).detach()


def _bert_layers(model: Any) -> list[_Layer]:
    return [
        _Layer(
            qkv=_linear(layer.attention.self.query, layer.attention.self.key, layer.attention.self.value),
            out=_linear(layer.attention.output.dense),
            norm_attention=_norm(layer.attention.output.LayerNorm),
            up=_linear(layer.intermediate.dense),
            down=_linear(layer.output.dense),
            norm_output=_norm(layer.output.LayerNorm),
        )
        for layer in model.encoder.layer
    ]


def _distilbert_layers(model: Any) -> list[_Layer]:
    return [
        _Layer(
            qkv=_linear(layer.attention.q_lin, layer.attention.k_lin, layer.attention.v_lin),
            out=_linear(layer.attention.out_lin),
            norm_attention=_norm(layer.sa_layer_norm),
            up=_linear(layer.ffn.lin1),
            down=_linear(layer.ffn.lin2),
            norm_output=_norm(layer.output_layer_norm),
        )
        for layer in model.transformer.layer
    ]


def _activation(model: Any) -> Callable[[Tensor], Tensor]:
    from transformers.activations import ACT2FN

    config = model.config
    name = config.activation if config.model_type == "distilbert" else config.hidden_act
    return F.gelu if name == "gelu" else ACT2FN[name]


_READERS: dict[str, Callable[[Any], list[_Layer]]] = {
    "bert": _bert_layers,
    "roberta": _bert_layers,
    "xlm-roberta": _bert_layers,
    "camembert": _bert_layers,
    "distilbert": _distilbert_layers,
}
