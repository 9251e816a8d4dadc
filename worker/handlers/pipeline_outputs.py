"""What a pipeline returns, as JSON: images as base64 PNG, sound as base64 WAV, tensors as lists."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:  # noqa: PLR0911  a return for each case
    """Plain JSON data from tensors, arrays, images, chats and what holds them."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if hasattr(value, "tolist"):  # a tensor, an array, or a numpy number
        return value.tolist()
    if hasattr(value, "save") and hasattr(value, "getpixel"):
        return png(value)
    if hasattr(value, "messages"):  # transformers' Chat
        return to_json(value.messages)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def png(image: Any) -> str:
    """A PIL image as base64 PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mask_png(mask: Any) -> str:
    """A mask of truth values, height x width, as a black and white PNG."""
    import numpy
    from PIL import Image

    return png(Image.fromarray(numpy.asarray(mask).astype(bool).astype("uint8") * 255, mode="L"))


def wav(samples: Any, rate: int) -> str:
    """Samples (n,) or (channels, n) between -1 and 1 as a base64 WAV of 16 bits."""
    import numpy
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, numpy.asarray(samples, dtype="float32").T, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()


def output_of(task: str, value: Any, pipe: Any) -> Any:
    """One item's answer from what `postprocess` returned."""
    if task == "image-classification":
        return {"labels": to_json(value)}
    if task == "text-classification":
        return to_json(value if isinstance(value, list) else [value])  # as the pipeline's own call does
    if task == "text-to-audio":
        return {"audio": wav(value["audio"], value["sampling_rate"]), "sampling_rate": value["sampling_rate"]}
    if task == "mask-generation":
        return {**to_json({k: v for k, v in value.items() if k != "masks"}), "masks": [*map(mask_png, value["masks"])]}
    if task == "any-to-any":
        return [_record(record, pipe) for record in value]
    return to_json(value)


def _record(record: dict[str, Any], pipe: Any) -> dict[str, Any]:
    sound = record.get("generated_audio")
    if sound is None:
        return dict(to_json(record))
    extractor = getattr(pipe.processor, "feature_extractor", None) or pipe.feature_extractor
    rate = getattr(pipe.model.config, "sampling_rate", None) or extractor.sampling_rate
    return {**to_json({**record, "generated_audio": None}), "generated_audio": wav(sound, rate)}


def with_endings(records: list[dict[str, Any]], output: Any, forward: dict[str, Any], pipe: Any) -> list[Any]:
    """The answers to a chat with how many tokens each has, and why it has no more: it came to its end (or to a
    `stop_sequence`), or to the length that was asked for."""
    new = output["generated_sequence"][0].tolist()
    prompt = output["input_ids"].shape[-1]
    ended = pipe.model.generation_config.eos_token_id
    ends = set(ended if isinstance(ended, list) else [ended])
    told = []
    for record, tokens in zip(records, (sequence[prompt:] for sequence in new), strict=True):
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        length = end + 1 if end is not None else len(tokens) - _padding(tokens, pipe.tokenizer.pad_token_id)
        text = pipe.tokenizer.decode(tokens[:length])
        stopped = end is not None or any(stop in text for stop in forward.get("stop_strings") or ())
        told.append({**record, "finish_reason": "stop" if stopped else "length", "tokens": length})
    return told


def _padding(tokens: list[int], pad: int | None) -> int:
    """How many at the end are there because another row of the batch had more."""
    return next((count for count, token in enumerate(reversed(tokens)) if token != pad), len(tokens))
