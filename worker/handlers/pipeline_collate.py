"""How chunks of different jobs become one batch of a pipeline, and how its output becomes one for each chunk.

A chunk is what the pipeline's `preprocess` gave for one item, or for one part of it. transformers' own
`pad_collate_fn` makes the batch. It pads whatever it is given; here stands what may be padded without changing an
answer: sequences that carry an attention mask, of models and tasks that read it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Mapping
from enum import StrEnum
from types import SimpleNamespace
from typing import Any


class Batching(StrEnum):
    """What may share a forward."""

    PADDED = "collated with padding"
    EQUAL = "equal shapes"
    SINGLE = "singly"


BATCHING = {
    "any-to-any": Batching.PADDED,
    "audio-classification": Batching.PADDED,
    "automatic-speech-recognition": Batching.PADDED,
    "decision": Batching.SINGLE,
    "depth-estimation": Batching.EQUAL,
    "document-question-answering": Batching.PADDED,
    "feature-extraction": Batching.PADDED,
    "fill-mask": Batching.PADDED,
    "image-classification": Batching.EQUAL,
    "image-feature-extraction": Batching.EQUAL,
    "image-segmentation": Batching.EQUAL,
    "image-text-to-text": Batching.PADDED,
    "keypoint-matching": Batching.SINGLE,
    "mask-generation": Batching.SINGLE,
    "object-detection": Batching.EQUAL,
    "table-question-answering": Batching.PADDED,
    "text-classification": Batching.PADDED,
    "text-generation": Batching.PADDED,
    "text-to-audio": Batching.SINGLE,
    "token-classification": Batching.PADDED,
    "video-classification": Batching.EQUAL,
    "zero-shot-audio-classification": Batching.EQUAL,
    "zero-shot-classification": Batching.PADDED,
    "zero-shot-image-classification": Batching.EQUAL,
    "zero-shot-object-detection": Batching.PADDED,
}
"""The best a task can do; a model may be able to do less (`batching_of`). docs/tasks.md gives the reasons."""

GENERATES = frozenset({"any-to-any", "image-text-to-text", "text-generation"})  # by a decoder that reads the prompt
CLASSIFIES_SEQUENCES = frozenset({"text-classification", "zero-shot-classification"})
_IMAGES = frozenset({"pixel_values", "image"})  # keys that pad_collate_fn joins as they are
_SOUNDS = ("input_values", "input_features")

_serial = itertools.count()


def batching_of(task: str, pipe: Any) -> Batching:  # noqa: PLR0911  a return for each case
    """What this task can do with this model."""
    best, tokenizer, config = BATCHING[task], pipe.tokenizer, pipe.model.config
    if best is not Batching.PADDED:
        return best
    if task in CLASSIFIES_SEQUENCES and config.get_text_config().pad_token_id is None:
        return Batching.SINGLE  # these models look for the last token that is not padding, and refuse a batch
    if task in GENERATES:
        if getattr(tokenizer, "response_template", None):
            return Batching.SINGLE  # such answers are parsed with their special tokens, padding among them
        if tokenizer.padding_side == "right" and not config.is_encoder_decoder:
            return Batching.EQUAL  # the answer would follow the padding
    if task == "audio-classification":
        return best if getattr(pipe.feature_extractor, "return_attention_mask", False) else Batching.EQUAL
    if task == "automatic-speech-recognition":
        # A padded frame of a CTC model decodes to letters: its row must be cut, so its length must be known.
        masked = getattr(pipe.feature_extractor, "return_attention_mask", False)
        cut = pipe.type.startswith("ctc") and hasattr(pipe.model, "_get_feat_extract_output_lengths")
        return best if masked and cut else Batching.EQUAL
    return best if tokenizer is not None and tokenizer.pad_token_id is not None else Batching.EQUAL


def sequence_key(inputs: Mapping[str, Any]) -> str | None:
    """The tensor along whose second axis a chunk may be padded: one that comes with a mask of the same length."""
    mask = inputs.get("attention_mask")
    for key in ("input_ids", *_SOUNDS):
        value = inputs.get(key)
        if value is not None and mask is not None and value.ndim >= 2 and value.shape[:2] == mask.shape[:2]:
            return key if value.shape[0] == 1 and value.shape[1] else None
    return None


def group_of(inputs: Mapping[str, Any], batching: Batching, parameters: Any) -> Hashable:
    """Chunks with equal groups may share a forward. `parameters`: those of `preprocess` and `forward`."""
    if batching is Batching.SINGLE:
        return next(_serial)
    sequence = sequence_key(inputs) if batching is Batching.PADDED else None
    shapes = tuple(sorted((key, _shape(inputs, key, sequence)) for key in inputs))
    return json.dumps(parameters, sort_keys=True, default=_jsonable), shapes


def _shape(inputs: Mapping[str, Any], key: str, sequence: str | None) -> str:
    value = inputs[key]
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return type(value).__name__
    shape = tuple(value.shape)
    if sequence and key not in _IMAGES and shape[:2] == tuple(inputs[sequence].shape[:2]):
        shape = (1, -1, *shape[2:])
    return f"{value.dtype}{shape}"


def _jsonable(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(type(value))


def collate(chunks: list[Any], pipe: Any) -> dict[str, Any]:
    """One batch of chunks of one group, by transformers' own rules. It wants a padding value even where nothing is
    to be padded, so a stand-in gives one where the model has none."""
    from transformers.pipelines.base import pad_collate_fn

    sounds = pipe.feature_extractor or pipe.image_processor
    words = "input_ids" in chunks[0]
    side = getattr(pipe.tokenizer if words else sounds, "padding_side", None) or "right"
    token = getattr(pipe.tokenizer, "pad_token_id", None) or 0
    tokens = SimpleNamespace(pad_token_id=token, padding_side=side)
    features = SimpleNamespace(padding_value=getattr(sounds, "padding_value", None) or 0.0, padding_side=side)
    join: Any = pad_collate_fn(tokens, features)  # type: ignore[no-untyped-call]
    batch: dict[str, Any] = join([dict(chunk) for chunk in chunks])
    return batch


def row(output: Any, index: int, size: int) -> Any:
    """Row `index` of a batch's output, as if the batch had been of one: what transformers'
    `PipelineIterator.loader_batch_item` does, and also for outputs inside outputs."""
    import numpy
    import torch

    if isinstance(output, Mapping):
        kind: Any = type(output)
        return kind({key: row(value, index, size) for key, value in output.items()})
    if isinstance(output, tuple):
        return tuple(row(value, index, size) for value in output)
    if isinstance(output, list):
        if len(output) != size:
            return output
        return output[index][None] if isinstance(output[index], torch.Tensor | numpy.ndarray) else output[index]
    if getattr(output, "ndim", 0) and output.shape[0] == size:
        return output[index : index + 1]
    return output


def widen(output: Any) -> Any:
    """Half-precision numbers as float32: the pipelines' `postprocess` goes through numpy, which has no bfloat16."""
    import torch

    if isinstance(output, Mapping):
        kind: Any = type(output)
        return kind({key: widen(value) for key, value in output.items()})
    if isinstance(output, list | tuple):
        return type(output)(widen(value) for value in output)
    if isinstance(output, torch.Tensor) and output.dtype in (torch.bfloat16, torch.float16):
        return output.float()
    return output


def trim(task: str, output: Any, inputs: Mapping[str, Any], pipe: Any) -> Any:
    """Cut what padding added to a row's output, where the pipeline's `postprocess` would take it for an answer."""
    sequence = sequence_key(inputs)
    if sequence is None:
        return output
    cut: tuple[str, ...]
    if task == "feature-extraction":
        cut = (next(iter(output)),)
    elif task == "document-question-answering":
        cut = ("start_logits", "end_logits", "attention_mask")
    elif task == "automatic-speech-recognition" and sequence in _SOUNDS:
        frames = int(pipe.model._get_feat_extract_output_lengths(inputs["attention_mask"].sum()))
        return output.__class__({k: v[:, :frames] if k in ("tokens", "logits") else v for k, v in output.items()})
    else:
        return output
    length = inputs[sequence].shape[1]
    window = slice(-length, None) if pipe.tokenizer.padding_side == "left" else slice(length)
    return output.__class__({key: value[:, window] if key in cut else value for key, value in output.items()})
