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
