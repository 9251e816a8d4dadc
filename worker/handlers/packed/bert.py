"""BERT (https://arxiv.org/abs/1810.04805) and what is built like it: a table of positions, norms behind the sums.

RoBERTa and its kin count positions from behind the padding's; DistilBERT (https://arxiv.org/abs/1910.01108) has other
names; ELECTRA (https://arxiv.org/abs/2003.10555) may have narrower embeddings, ALBERT (https://arxiv.org/abs/1909.11942)
has them and shares its layers; MPNet (https://arxiv.org/abs/2004.09297) adds a bias by distance to the scores.
"""

from __future__ import annotations

from typing import Any

import torch

from worker.handlers.packed.attention import Sight
from worker.handlers.packed.parts import Layer, Linear, Norm, Weights, activation


def bert(model: Any) -> Weights:
    """Also RoBERTa, XLM-R, CamemBERT and ELECTRA."""
    layers = [
        Layer(
            qkv=Linear.of(layer.attention.self.query, layer.attention.self.key, layer.attention.self.value),
            out=Linear.of(layer.attention.output.dense),
            norm_attention=Norm.of(layer.attention.output.LayerNorm),
            up=Linear.of(layer.intermediate.dense),
            down=Linear.of(layer.output.dense),
            norm_output=Norm.of(layer.output.LayerNorm),
        )
        for layer in model.encoder.layer
    ]
    weights = _embedded(model, layers, model.config.hidden_act)
    if (project := getattr(model, "embeddings_project", None)) is not None:
        weights.project = Linear.of(project)
    return weights


def distilbert(model: Any) -> Weights:
    """DistilBertModel."""
    layers = [
        Layer(
            qkv=Linear.of(layer.attention.q_lin, layer.attention.k_lin, layer.attention.v_lin),
            out=Linear.of(layer.attention.out_lin),
            norm_attention=Norm.of(layer.sa_layer_norm),
            up=Linear.of(layer.ffn.lin1),
            down=Linear.of(layer.ffn.lin2),
            norm_output=Norm.of(layer.output_layer_norm),
        )
        for layer in model.transformer.layer
    ]
    return _embedded(model, layers, model.config.activation)


def albert(model: Any) -> Weights:
    """AlbertModel: `num_hidden_layers` passes through the layers of `num_hidden_groups` groups."""
    config, encoder = model.config, model.encoder
    groups = [[_albert_layer(layer) for layer in group.albert_layers] for group in encoder.albert_layer_groups]
    layers = [
        layer
        for index in range(config.num_hidden_layers)
        for layer in groups[index * config.num_hidden_groups // config.num_hidden_layers]
    ]
    weights = _embedded(model, layers, config.hidden_act)
    weights.project = Linear.of(encoder.embedding_hidden_mapping_in)
    return weights


def _albert_layer(layer: Any) -> Layer:
    attention = layer.attention
    return Layer(
        qkv=Linear.of(attention.query, attention.key, attention.value),
        out=Linear.of(attention.dense),
        norm_attention=Norm.of(attention.LayerNorm),
        up=Linear.of(layer.ffn),
        down=Linear.of(layer.ffn_output),
        norm_output=Norm.of(layer.full_layer_layer_norm),
    )


def mpnet(model: Any) -> Weights:
    """MPNetModel. The bias is the model's own, for as many places as it has positions."""
    places = model.embeddings.position_embeddings.num_embeddings - model.embeddings.padding_idx - 1
    weight = model.encoder.relative_attention_bias.weight
    with torch.no_grad():
        bias = model.encoder.compute_position_bias(weight.new_empty(1, places))[0].contiguous()
    sight = Sight(bias=bias)
    layers = [
        Layer(
            qkv=Linear.of(layer.attention.attn.q, layer.attention.attn.k, layer.attention.attn.v),
            out=Linear.of(layer.attention.attn.o),
            norm_attention=Norm.of(layer.attention.LayerNorm),
            up=Linear.of(layer.intermediate.dense),
            down=Linear.of(layer.output.dense),
            norm_output=Norm.of(layer.output.LayerNorm),
            sight=sight,
        )
        for layer in model.encoder.layer
    ]
    return _embedded(model, layers, model.config.hidden_act)


def _embedded(model: Any, layers: list[Layer], act: str) -> Weights:
    embeddings = model.embeddings
    positions = embeddings.position_embeddings.weight.detach()
    types = getattr(embeddings, "token_type_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)  # RoBERTa counts from behind it
    return Weights(
        words=embeddings.word_embeddings.weight.detach(),
        norm=Norm.of(embeddings.LayerNorm),
        layers=layers,
        heads=model.config.num_attention_heads,
        activation=activation(act),
        positions=positions if types is None else positions + types.weight[0].detach(),
        first_position=0 if padding is None else padding + 1,
    )
