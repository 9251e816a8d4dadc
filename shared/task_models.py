"""Input and output models of the tasks that transformers' pipelines serve (`shared/pipeline_tasks.py`).

The names are the pipelines' own call arguments. What would let a caller make the worker read a file or fetch a URL
(a path in place of an image, a link in a chat message) has no field here: files come as bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from shared.task import Blob, Strict

# Inputs --------------------------------------------------------------------------------------------


class TextItem(Strict):
    """One text."""

    text: str = Field(min_length=1, examples=["A queue keeps what it was given."])


class TextPairItem(TextItem):
    """One text, or a pair of them for a model that compares two."""

    text_pair: str | None = Field(None, min_length=1)


class ImageItem(Strict):
    """One image: PNG, JPEG, WebP, GIF, BMP, TIFF. (A classifier of torchvision or ONNX also takes what its
    preprocessing would make of one: float32 [3, H, W] as a .npy file.)"""

    image: Blob


class ImagePairItem(Strict):
    """Two images of one scene."""

    images: list[Blob] = Field(min_length=2, max_length=2)


class AudioItem(Strict):
    """One recording: WAV, FLAC, OGG, MP3; any rate, mixed down to mono."""

    audio: Blob


class VideoItem(Strict):
    """One video: MP4, WebM, MKV, AVI."""

    video: Blob


class TextPart(Strict):
    """Words in a message."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Strict):
    """An image in a message."""

    type: Literal["image"] = "image"
    image: Blob


class TextMessage(Strict):
    """One message of a chat."""

    role: str = Field(min_length=1, max_length=64, examples=["user"])
    content: str


class Message(Strict):
    """One message of a chat with words and images."""

    role: str = Field(min_length=1, max_length=64, examples=["user"])
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class PromptItem(Strict):
    """A text to continue, or a chat."""

    text: Annotated[str, Field(min_length=1)] | Annotated[list[TextMessage], Field(min_length=1)]


class ImageTextItem(Strict):
    """An image and a text about it, or a chat whose messages hold the images."""

    image: Blob | None = None
    text: Annotated[str, Field(min_length=1)] | Annotated[list[Message], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_place_for_images(self) -> ImageTextItem:
        if self.image is not None and not isinstance(self.text, str):
            raise ValueError("in a chat the images stand in the messages")
        return self


class AnyItem(ImageTextItem):
    """A text with an image, a recording or a video beside it, or a chat."""

    audio: Blob | None = None
    video: Blob | None = None


class TableItem(Strict):
    """A question to a table, which is given by columns of equal length."""

    table: dict[str, list[str | int | float]] = Field(min_length=1, examples=[{"city": ["Oslo"], "people": ["700000"]}])
    query: str = Field(min_length=1)

    @model_validator(mode="after")
    def _rectangular(self) -> TableItem:
        lengths = {len(column) for column in self.table.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("the table's columns must have one length, at least 1")
        return self


Coordinate = Annotated[int, Field(ge=0, le=1000)]
WordBox = tuple[str, tuple[Coordinate, Coordinate, Coordinate, Coordinate]]


class DocumentItem(Strict):
    """A question to a page. `word_boxes` are its words and their boxes on a grid of 1000 x 1000; models that read
    words (LayoutLM) need them unless the worker has an OCR engine."""

    image: Blob | None = None
    question: str = Field(min_length=1)
    word_boxes: list[WordBox] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _something_to_read(self) -> DocumentItem:
        if self.image is None and self.word_boxes is None:
            raise ValueError("give image or word_boxes")
        return self


class Asset(Strict):
    """An image that a placeholder in the state or a question stands for."""

    type: Literal["image"] = "image"
    format: str | None = None
    data_base64: Blob


class DecisionItem(Strict):
    """Typed questions about a state: `choice` (criteria: option -> description), `score` (criteria: the levels, lowest
    first) or `noul` (yes or no)."""

    state: Any
    questions: dict[str, dict[str, Any]] = Field(min_length=1)
    assets: dict[str, Asset] | None = None


# Outputs -------------------------------------------------------------------------------------------

Png = Annotated[str, Field(description="A PNG image in base64", json_schema_extra={"contentEncoding": "base64"})]
Wav = Annotated[str, Field(description="A WAV file in base64", json_schema_extra={"contentEncoding": "base64"})]


class ScoredLabel(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class Labels(BaseModel):
    """Best first."""

    labels: list[ScoredLabel]


class Ranking(BaseModel):
    """The candidate labels, best first, and their scores."""

    sequence: str
    labels: list[str]
    scores: list[float]


class Entity(BaseModel):
    """A token (`entity`, `index`) or several joined (`entity_group`); `start` and `end` are places in the text."""

    entity: str | None = None
    entity_group: str | None = None
    score: float
    index: int | None = None
    word: str
    start: int | None = None
    end: int | None = None


class Filling(BaseModel):
    """A word for the mask, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class Generated(BaseModel):
    """The text (or, for a chat, its messages) with the answer; for a chat also why it ended, and how many tokens the
    answer has."""

    generated_text: Any
    finish_reason: Literal["stop", "length"] | None = None
    tokens: int | None = None


class GeneratedAny(BaseModel):
    """What was asked, and the answer: one of the three."""

    input_text: Any = None
    generated_text: Any = None
    generated_audio: Any = None
    generated_image: Any = None


class TableAnswer(BaseModel):
    """The answer, and the cells (row, column) it was read from."""

    answer: str
    coordinates: list[tuple[int, int]] | None = None
    cells: list[str] | None = None
    aggregator: str | None = None


class DocumentAnswer(BaseModel):
    """The answer and its first and last word on the page."""

    answer: str | None
    score: float | None = None
    start: int | None = None
    end: int | None = None


class Box(BaseModel):
    """Corners in pixels."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Detection(BaseModel):
    """An object in an image."""

    label: str
    score: float
    box: Box


class Segment(BaseModel):
    """A part of an image; its mask is white where the part is."""

    label: str
    score: float | None
    mask: Png


class Depth(BaseModel):
    """The model's depth for each pixel, and as a picture scaled from near to far."""

    predicted_depth: list[list[float]]
    depth: Png


class Masks(BaseModel):
    """The masks of an image, white inside, and how sure the model is of each."""

    masks: list[Png]
    scores: list[float]
    rle_mask: list[Any] | None = None
    bounding_boxes: list[list[float]] | None = None


class Point(BaseModel):
    """A place in an image, in pixels."""

    x: float
    y: float


class Match(BaseModel):
    """One point of the scene in both images."""

    keypoint_image_0: Point
    keypoint_image_1: Point
    score: float


class SpeechChunk(BaseModel):
    """A part of the transcript and when it was said, in seconds."""

    text: str
    timestamp: tuple[float | None, float | None] | None = None
    language: str | None = None


class Transcript(BaseModel):
    """What was said."""

    text: str
    chunks: list[SpeechChunk] | None = None


class Sound(BaseModel):
    """A recording."""

    audio: Wav
    sampling_rate: int
