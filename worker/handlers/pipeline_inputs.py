"""A job's item and parameters as the arguments of a pipeline's own call."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from worker.handler import ItemError
from worker.handlers.images import decode_image
from worker.handlers.length import NO_LIMIT, most_tokens
from worker.handlers.pipeline_media import audio, video_file

TRUNCATES = frozenset(
    {"feature-extraction", "fill-mask", "text-classification", "token-classification", "zero-shot-classification"}
)


def call_arguments(task: str, parameters: Any, dtype: Any = None) -> dict[str, Any]:
    """The keyword arguments of the pipeline's call. Texts over the model's limit are always cut here; whether that is
    told or refused is decided by `full_length`."""
    given: dict[str, Any] = parameters.model_dump(exclude_none=True)
    if task == "zero-shot-object-detection":
        given.pop("candidate_labels")  # these are part of this pipeline's input
    elif task in ("text-classification", "feature-extraction"):
        given["truncation"] = True
    elif task == "fill-mask":
        given["tokenizer_kwargs"] = {"truncation": True}
    elif task == "automatic-speech-recognition" and given.get("return_timestamps") is False:
        del given["return_timestamps"]
    elif task == "text-to-audio":
        given["forward_params"] = _voice(given.get("forward_params", {}), dtype)
    return given


def _voice(given: dict[str, Any], dtype: Any) -> dict[str, Any]:
    import torch

    if "speaker_embeddings" in given:
        given["speaker_embeddings"] = torch.tensor([given["speaker_embeddings"]], dtype=dtype)
    return given


def pipeline_input(task: str, item: Any, parameters: Any, pipe: Any, files: ExitStack) -> Any:  # noqa: PLR0911  a return for each case
    """What the pipeline's `preprocess` takes for this item; files it needs live as long as `files`. Raises ItemError
    for an image, recording or video that cannot be decoded."""
    match task:
        case "text-classification" if item.text_pair is not None:
            return {"text": item.text, "text_pair": item.text_pair}
        case "text-generation":
            return _prompt(item.text, pipe)
        case "image-text-to-text" | "any-to-any":
            return _multimodal(task, item, pipe, files)
        case "table-question-answering":
            import pandas

            return {"table": pandas.DataFrame(item.table).astype(str), "query": item.query}
        case "document-question-answering":
            page = {} if item.image is None else {"image": decode_image(item.image)}
            words = {} if item.word_boxes is None else {"word_boxes": item.word_boxes}
            return {"question": item.question, **page, **words}
        case "decision":
            assets = {
                name: decode_image(a.data_base64, pointer=f"/assets/{name}") for name, a in (item.assets or {}).items()
            }
            return {"state": item.state, "questions": item.questions, **({"assets": assets} if assets else {})}
        case "keypoint-matching":
            return [decode_image(data, pointer=f"/images/{index}") for index, data in enumerate(item.images)]
        case "zero-shot-object-detection":
            return {"image": decode_image(item.image), "candidate_labels": parameters.candidate_labels}
        case "video-classification":
            return files.enter_context(video_file(item.video))
    if hasattr(item, "audio"):
        return audio(item.audio, pipe.feature_extractor.sampling_rate)
    return decode_image(item.image) if hasattr(item, "image") else item.text


def _prompt(text: Any, pipe: Any) -> Any:
    """A text, or a chat as this pipeline marks it (not all of them mean the same class by `Chat`)."""
    if isinstance(text, str):
        return text
    chat: Any = sys.modules[type(pipe).__module__].Chat
    return chat([message.model_dump() for message in text])


def _multimodal(task: str, item: Any, pipe: Any, files: ExitStack) -> Any:
    if not isinstance(item.text, str):
        chat = _prompt(item.text, pipe)
        for number, message in enumerate(chat.messages):
            for place, part in enumerate(message["content"] if isinstance(message["content"], list) else ()):
                if part["type"] == "image":
                    part["image"] = decode_image(part["image"], pointer=f"/text/{number}/content/{place}/image")
        return chat
    given: dict[str, Any] = {"text": item.text}
    if item.image is not None:
        given["images"] = decode_image(item.image)
    if task == "any-to-any" and item.audio is not None:
        given["audio"] = audio(item.audio, pipe.processor.feature_extractor.sampling_rate)
    if task == "any-to-any" and item.video is not None:
        given["videos"] = files.enter_context(video_file(item.video))
    return given if len(given) > 1 else item.text


def set_text_limit(task: str, pipe: Any) -> int | None:
    """How many tokens the model reads; None where it does not matter or nobody says. The tokenizer is told too: what
    it does not know it cannot cut."""
    if task not in TRUNCATES and task != "text-generation":
        return None
    limit = most_tokens(None, pipe.tokenizer.model_max_length, pipe.model)
    if limit >= NO_LIMIT:
        return None
    pipe.tokenizer.model_max_length = limit
    return limit


def full_length(task: str, item: Any, chunk: Any, pipe: Any, limit: int) -> int | None:
    """How many tokens the text has, if this chunk of it had to be cut; else None."""
    length = chunk["input_ids"].shape[1]
    if task == "text-generation":
        full = pipe.preprocess(_prompt(item.text, pipe))["input_ids"].shape[1]
        return int(full) if full > length else None
    if length < limit:
        return None
    pair = chunk.get("candidate_label") or getattr(item, "text_pair", None)
    full = len(pipe.tokenizer(item.text, pair)["input_ids"])
    return full if full > length else None


def check_frames(item: Any, chunk: Any, wanted: int | None) -> None:
    """A video shorter than what the model reads would only fail in the forward. Raises ItemError."""
    frames = chunk["pixel_values"].shape[1] if "pixel_values" in chunk else None
    if wanted and frames is not None and frames < wanted:
        raise ItemError(f"the video gives {frames} frames; the model reads {wanted}", pointer="/video")
