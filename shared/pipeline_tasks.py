"""The tasks that transformers' pipelines serve, by the names of its `SUPPORTED_TASKS`.

Inputs and parameters are the pipelines' own arguments, outputs what they return, as JSON: images as base64 PNG, sound
as base64 WAV, tensors as lists (`image-classification` alone answers in the service's own shape). A test holds this
list to the installed transformers; `docs/tasks.md` shows each with an example.
"""

from __future__ import annotations

from typing import Any

from shared.task import NoParameters, Task
from shared.task_models import (
    AnyItem,
    AudioItem,
    DecisionItem,
    Depth,
    Detection,
    DocumentAnswer,
    DocumentItem,
    Entity,
    Filling,
    Generated,
    GeneratedAny,
    ImageItem,
    ImagePairItem,
    ImageTextItem,
    Labels,
    Masks,
    Match,
    PromptItem,
    Ranking,
    ScoredLabel,
    Segment,
    Sound,
    TableAnswer,
    TableItem,
    TextItem,
    TextPairItem,
    Transcript,
    VideoItem,
)
from shared.task_parameters import (
    AnyParameters,
    ClassifyParameters,
    DocumentParameters,
    FillMaskParameters,
    ImageTextParameters,
    MaskParameters,
    PoolParameters,
    SegmentationParameters,
    SoundParameters,
    SpeechParameters,
    TextGenerationParameters,
    ThresholdParameters,
    TokenParameters,
    TopK,
    VideoParameters,
    ZeroShotDetectionParameters,
    ZeroShotParameters,
    ZeroShotTextParameters,
)

_TEXTS, _IMAGES, _AUDIOS, _VIDEOS = ("text", "texts"), ("image", "images"), ("audio", "audios"), ("video", "videos")

IMAGE_CLASSIFICATION = Task("image-classification", ImageItem, Labels, TopK, _IMAGES)

_TASKS = (
    IMAGE_CLASSIFICATION,
    Task("any-to-any", AnyItem, list[GeneratedAny], AnyParameters),
    Task("audio-classification", AudioItem, list[ScoredLabel], ClassifyParameters, _AUDIOS),
    Task("automatic-speech-recognition", AudioItem, Transcript, SpeechParameters, _AUDIOS),
    Task("decision", DecisionItem, dict[str, dict[str, Any]], NoParameters),
    Task("depth-estimation", ImageItem, Depth, NoParameters, _IMAGES),
    Task(
        "document-question-answering",
        DocumentItem,
        list[DocumentAnswer],
        DocumentParameters,
        ("question", "questions"),
    ),
    Task("feature-extraction", TextItem, list[list[list[float]]], NoParameters, _TEXTS),
    Task("fill-mask", TextItem, list[Filling] | list[list[Filling]], FillMaskParameters, _TEXTS),
    Task("image-feature-extraction", ImageItem, list[Any], PoolParameters, _IMAGES),
    Task("image-segmentation", ImageItem, list[Segment], SegmentationParameters, _IMAGES),
    Task("image-text-to-text", ImageTextItem, list[GeneratedAny], ImageTextParameters, _IMAGES),
    Task("keypoint-matching", ImagePairItem, list[Match], ThresholdParameters),
    Task("mask-generation", ImageItem, Masks, MaskParameters, _IMAGES),
    Task("object-detection", ImageItem, list[Detection], ThresholdParameters, _IMAGES),
    Task("table-question-answering", TableItem, TableAnswer, NoParameters, ("query", "queries")),
    Task("text-classification", TextPairItem, list[ScoredLabel], ClassifyParameters, _TEXTS),
    Task("text-generation", PromptItem, list[Generated], TextGenerationParameters, _TEXTS),
    Task("text-to-audio", TextItem, Sound, SoundParameters, _TEXTS),
    Task("token-classification", TextItem, list[Entity], TokenParameters, _TEXTS),
    Task("video-classification", VideoItem, list[ScoredLabel], VideoParameters, _VIDEOS),
    Task("zero-shot-audio-classification", AudioItem, list[ScoredLabel], ZeroShotParameters, _AUDIOS),
    Task("zero-shot-classification", TextItem, Ranking, ZeroShotTextParameters, _TEXTS),
    Task("zero-shot-image-classification", ImageItem, list[ScoredLabel], ZeroShotParameters, _IMAGES),
    Task("zero-shot-object-detection", ImageItem, list[Detection], ZeroShotDetectionParameters, _IMAGES),
)

PIPELINE_TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
