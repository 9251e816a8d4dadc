"""Inputs for each task, to warm a model up and to check it."""

from __future__ import annotations

import io
import math
import struct
import wave
from typing import Any

from shared.tasks import PIPELINE_TASKS

_TEXT = "A queue keeps what it was given until someone takes it."
_LABELS = {"candidate_labels": ["a queue", "a cat"]}
_FEW = {"generate_kwargs": {"max_new_tokens": 4}}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "any-to-any": {"max_new_tokens": 4},
    "automatic-speech-recognition": _FEW,
    "image-text-to-text": {"max_new_tokens": 4},
    "mask-generation": {"points_per_crop": 4},
    "text-generation": {"max_new_tokens": 4},
    "zero-shot-audio-classification": _LABELS,
    "zero-shot-classification": _LABELS,
    "zero-shot-image-classification": _LABELS,
    "zero-shot-object-detection": _LABELS,
}


def examples(task: str, pipe: Any) -> tuple[list[Any], dict[str, Any]]:
    """Inputs that this loaded pipeline can run, and the parameters to run them with."""
    parameters = _PARAMETERS.get(task, {})
    if pipe.model.config.model_type == "speecht5":  # speaks with no voice of its own
        parameters = {"forward_params": {"speaker_embeddings": [0.0] * pipe.model.config.speaker_embedding_dim}}
    inputs = [_input(task, pipe)]
    # A second one of another length, so that what can be padded is padded in the warm-up and in `pipeline_check`.
    if "text" in inputs[0] and task not in ("image-text-to-text", "any-to-any"):
        inputs.append({"text": f"{inputs[0]['text']} {_TEXT}"})
    if "audio" in inputs[0]:
        inputs.append({"audio": tone(1.3, 220.0)})
    if "word_boxes" in inputs[0]:
        inputs.append({**inputs[0], "question": "What is the total of this page?"})
    if "table" in inputs[0]:
        inputs.append({**inputs[0], "query": "how many people are there in Rome?"})
    return [PIPELINE_TASKS[task].item.model_validate(given) for given in inputs], parameters


def _input(task: str, pipe: Any) -> dict[str, Any]:  # noqa: PLR0911  a return for each case
    fields = PIPELINE_TASKS[task].item.model_fields
    match task:
        case "fill-mask":
            return {"text": f"A queue keeps what it was {pipe.tokenizer.mask_token}."}
        case "image-text-to-text" | "any-to-any":
            return _multimodal(pipe)
        case "table-question-answering":
            return {"table": {"city": ["Oslo", "Rome"], "people": ["700000", "2800000"]}, "query": "people in Oslo"}
        case "document-question-answering":
            boxes = [("Total", (100, 100, 200, 120)), ("42", (220, 100, 260, 120))]
            return {"image": png(), "question": "What is the total?", "word_boxes": boxes}
        case "decision":
            return {"state": _TEXT, "questions": {"kept": {"type": "noul", "instructions": "Is anything kept?"}}}
        case "keypoint-matching":
            return {"images": [png(), png(seed=1)]}
        case "video-classification":
            return {"video": video(getattr(pipe.model.config, "num_frames", None) or 16)}
    if "audio" in fields:
        return {"audio": tone()}
    return {"image": png()} if "image" in fields else {"text": _TEXT}


def _multimodal(pipe: Any) -> dict[str, Any]:
    processor = pipe.processor
    if getattr(processor, "image_processor", None) is None:
        return {"text": _TEXT}
    if getattr(processor, "chat_template", None):
        return {
            "text": [{"role": "user", "content": [{"type": "image", "image": png()}, {"type": "text", "text": _TEXT}]}]
        }
    return {"image": png(), "text": f"{getattr(processor, 'image_token', None) or ''}{_TEXT}"}


def png(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """A picture of waves."""
    from PIL import Image

    points = (
        (int(127 + 127 * math.sin((x + seed) / 5)), int(127 + 127 * math.cos(y / (4 + seed))), (x * y + seed) % 256)
        for y in range(height)
        for x in range(width)
    )
    image = Image.new("RGB", (width, height))
    image.putdata([*points])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def tone(seconds: float = 1.0, hertz: float = 440.0, rate: int = 16_000) -> bytes:
    """A WAV file of a tone."""
    samples = (int(12_000 * math.sin(2 * math.pi * hertz * i / rate)) for i in range(int(seconds * rate)))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return buffer.getvalue()


def video(frames: int, seed: int = 0) -> bytes:
    """A short MP4 of a picture that moves."""
    import av
    from PIL import Image

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = Image.open(io.BytesIO(png(64, 48, seed + number)))
            frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
