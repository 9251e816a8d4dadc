"""Parameter models of the tasks that transformers' pipelines serve: the pipelines' own call arguments, typed.

What is not given is as the model's own files or the pipeline say.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.task import Strict

Template = Annotated[str, StringConstraints(pattern=r"^[^{}]*\{\}[^{}]*$", max_length=1000)]
"""A sentence with one `{}`, where the label goes."""
LabelNames = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)]
Activation = Literal["sigmoid", "softmax", "none"]
Share = Annotated[float, Field(ge=0, le=1)]


class TopK(Strict):
    """`top_k`: how many labels."""

    top_k: int = Field(5, ge=1, le=1000)


class ClassifyParameters(Strict):
    """`top_k`: how many labels, best first (default: the pipeline's); `function_to_apply` to the logits."""

    top_k: int | None = Field(None, ge=1, le=1000)
    function_to_apply: Activation | None = None


class VideoParameters(ClassifyParameters):
    """`num_frames` are read, every `frame_sampling_rate`-th of them."""

    num_frames: int | None = Field(None, ge=1, le=1024)
    frame_sampling_rate: int | None = Field(None, ge=1, le=1000)


class TokenParameters(Strict):
    """`aggregation_strategy` joins the tokens of an entity; `stride` reads a long text in overlapping windows."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None
    ignore_labels: list[str] | None = None
    stride: int | None = Field(None, ge=0)


class FillMaskParameters(Strict):
    """`targets`: score only these words."""

    top_k: int | None = Field(None, ge=1, le=1000)
    targets: LabelNames | None = None


class ZeroShotParameters(Strict):
    """`candidate_labels`: what to choose from; `hypothesis_template`: the sentence made of each."""

    candidate_labels: LabelNames
    hypothesis_template: Template | None = None


class ZeroShotTextParameters(ZeroShotParameters):
    """`multi_label`: each label is judged alone."""

    multi_label: bool | None = None


class ZeroShotDetectionParameters(Strict):
    """`candidate_labels`: what to look for; `threshold`: the least score; `top_k`: at most so many."""

    candidate_labels: LabelNames
    threshold: Share | None = None
    top_k: int | None = Field(None, ge=1, le=1000)


class ThresholdParameters(Strict):
    """`threshold`: the least score."""

    threshold: Share | None = None


class PoolParameters(Strict):
    """`pool`: one vector for the image in place of one for each patch."""

    pool: bool | None = None


class SegmentationParameters(ThresholdParameters):
    """`subtask`: what the model shall do, where it can do several."""

    subtask: Literal["semantic", "instance", "panoptic"] | None = None
    mask_threshold: Share | None = None
    overlap_mask_area_threshold: Share | None = None


class MaskParameters(Strict):
    """How the grid of points is laid (`points_per_crop` a side, `crops_n_layers`) and which masks are kept."""

    points_per_batch: int | None = Field(None, ge=1, le=4096)
    points_per_crop: int | None = Field(None, ge=1, le=128)
    crops_n_layers: int | None = Field(None, ge=0, le=3)
    crop_overlap_ratio: Share | None = None
    crop_n_points_downscale_factor: int | None = Field(None, ge=1, le=16)
    pred_iou_thresh: Share | None = None
    stability_score_thresh: Share | None = None
    stability_score_offset: float | None = None
    mask_threshold: float | None = None
    max_hole_area: float | None = Field(None, ge=0)
    max_sprinkle_area: float | None = Field(None, ge=0)
    crops_nms_thresh: Share | None = None
    output_rle_mask: bool | None = None
    output_bboxes_mask: bool | None = None


class DocumentParameters(Strict):
    """A long page is read in windows of `max_seq_len` tokens that overlap by `doc_stride`."""

    top_k: int | None = Field(None, ge=1, le=100)
    doc_stride: int | None = Field(None, ge=1)
    max_seq_len: int | None = Field(None, ge=8)
    max_answer_len: int | None = Field(None, ge=1)
    handle_impossible_answer: bool | None = None
    lang: str | None = Field(None, pattern=r"^[A-Za-z_+]{1,64}$")


class DecodeParameters(Strict):
    """How a model that generates chooses its tokens; what is not given is as the model's own files say."""

    max_new_tokens: int | None = Field(None, ge=1, le=32_768)
    min_new_tokens: int | None = Field(None, ge=0, le=32_768)
    do_sample: bool | None = None
    temperature: float | None = Field(None, gt=0, le=10)
    top_k: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    num_beams: int | None = Field(None, ge=1, le=16)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    no_repeat_ngram_size: int | None = Field(None, ge=0)


class GenerateParameters(DecodeParameters):
    """`num_return_sequences`: how many answers to one prompt."""

    num_return_sequences: int | None = Field(None, ge=1, le=16)


class TextGenerationParameters(GenerateParameters):
    """`return_full_text`: with the prompt before the answer (the default); `stop_sequence` ends the answer."""

    return_full_text: bool | None = None
    stop_sequence: str | list[str] | None = None
    continue_final_message: bool | None = None


class ImageTextParameters(Strict):
    """`generate_kwargs`: how the tokens are chosen."""

    max_new_tokens: int | None = Field(None, ge=1, le=32_768)
    generate_kwargs: GenerateParameters | None = None
    return_full_text: bool | None = None
    stop_sequence: str | list[str] | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _one_length(self) -> ImageTextParameters:
        if self.max_new_tokens and self.generate_kwargs and self.generate_kwargs.max_new_tokens:
            raise ValueError("give max_new_tokens once")
        return self


class AnyParameters(ImageTextParameters):
    """`generation_mode`: what comes out."""

    generation_mode: Literal["text", "audio", "image"] | None = None


class SpeechDecodeParameters(DecodeParameters):
    """`language` and `task` are for models that know several (Whisper)."""

    language: str | None = None
    task: Literal["transcribe", "translate"] | None = None


class SpeechParameters(Strict):
    """`return_timestamps`: "word", "char" (CTC) or true (Whisper); `chunk_length_s` reads a long recording in
    overlapping windows."""

    return_timestamps: bool | Literal["word", "char"] | None = None
    return_language: bool | None = None
    chunk_length_s: float | None = Field(None, gt=0, le=600)
    stride_length_s: float | tuple[float, float] | None = None
    generate_kwargs: SpeechDecodeParameters | None = None


class VoiceParameters(Strict):
    """Whose voice: a vector (SpeechT5) or a number (VITS)."""

    speaker_embeddings: list[float] | None = Field(None, min_length=1)
    speaker_id: int | None = Field(None, ge=0)


class SoundParameters(Strict):
    """`forward_params`: whose voice; `generate_kwargs`: how the tokens are chosen."""

    forward_params: VoiceParameters | None = None
    generate_kwargs: DecodeParameters | None = None
