"""Encoders whose positions are rotations of query and key, with gated linear layers (https://arxiv.org/abs/2002.05202).

ModernBERT (https://arxiv.org/abs/2412.13663) normalises before it reads, and lets most layers see a window alone; nomic
(https://arxiv.org/abs/2402.01613) and GTE (https://arxiv.org/abs/2407.19669), as transformers has them, do neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worker.handlers.packed.attention import Sight
from worker.handlers.packed.parts import Layer, Linear, Norm, Rotation, Weights, activation


def modernbert(model: Any) -> Weights:
    """ModernBertModel. Raises TypeError where a kind of layer has rotations that depend on the text's length."""
    config = model.config
    kinds = set(config.layer_types)
    rotations = {kind: _rotation(model, config.rope_parameters[kind], kind) for kind in kinds}
    sights = {kind: Sight(config.sliding_window if kind == "sliding_attention" else None) for kind in kinds}
    layers = [
        Layer(
            qkv=Linear.of(layer.attn.Wqkv),
            out=Linear.of(layer.attn.Wo),
            # The first has none: the embeddings are normalised already.
            norm_attention=_same if isinstance(layer.attn_norm, torch.nn.Identity) else Norm.of(layer.attn_norm),
            up=Linear.of(layer.mlp.Wi),
            down=Linear.of(layer.mlp.Wo),
            norm_output=Norm.of(layer.mlp_norm),
            sight=sights[layer.attention_type],
            rotation=rotations[layer.attention_type],
        )
        for layer in model.layers
    ]
    return Weights(
        words=model.embeddings.tok_embeddings.weight.detach(),
        norm=Norm.of(model.embeddings.norm),
        layers=layers,
        heads=config.num_attention_heads,
        activation=activation(config.hidden_activation),
        gated=True,
        norm_first=True,
        norm_last=Norm.of(model.final_norm),
    )


def nomic(model: Any) -> Weights:
    """NomicBertModel and GteModel. Raises TypeError as `modernbert` does."""
    config, embeddings = model.config, model.embeddings
    rotation = _rotation(model, config.rope_parameters)
    layers = [
        Layer(
            qkv=Linear.of(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            out=Linear.of(layer.self_attn.o_proj),
            norm_attention=Norm.of(layer.post_attention_layernorm),
            up=Linear.of(layer.mlp.gate_proj, layer.mlp.up_proj),
            down=Linear.of(layer.mlp.down_proj),
            norm_output=Norm.of(layer.post_mlp_layernorm),
            rotation=rotation,
        )
        for layer in model.layers
    ]
    words, types = embeddings.word_embeddings.weight.detach(), embeddings.token_type_embeddings
    return Weights(
        words=words if types is None else words + types.weight[0].detach(),
        norm=Norm.of(embeddings.LayerNorm),
        layers=layers,
        heads=config.num_attention_heads,
        activation=activation(config.hidden_act),
        gated=True,
    )


def _rotation(model: Any, parameters: dict[str, Any], *kind: str) -> Rotation:
    """The model's own, for each position that it has."""
    if parameters["rope_type"] != "default":
        raise TypeError(f"no packed forward for rotations of the type {parameters['rope_type']}")
    some = next(model.parameters())
    places = torch.arange(model.config.max_position_embeddings, device=some.device)[None]
    with torch.no_grad():
        cos, sin = model.rotary_emb(some, places, *kind)
    return Rotation(cos[0], sin[0])


def _same(x: Tensor) -> Tensor:
    return x
