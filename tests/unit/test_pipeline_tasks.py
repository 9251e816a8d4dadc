"""Every pipeline task with a tiny model: a batch of different jobs answers what each job alone and transformers' own
call answer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from shared.tasks import PIPELINE_TASKS
from tests.pipeline_models import MODELS, loader
from worker.compat import install_torchvision_ops
from worker.handler import Prepared
from worker.handlers.pipeline import PipelineHandler
from worker.handlers.pipeline_collate import BATCHING, Batching
from worker.handlers.pipeline_examples import png, tone, video
from worker.handlers.pipeline_inputs import call_arguments
from worker.handlers.pipeline_media import audio
from worker.handlers.pipeline_outputs import output_of
from worker.inprocess import as_item, plain, run_items, warm_up

TEXTS = [{"text": text} for text in ("a cat", "the queue keeps what it was given.", "how many people in rome?")]
IMAGES = [{"image": png(seed=0)}, {"image": png(seed=3)}, {"image": png(80, 40, seed=5)}]
SOUNDS = [{"audio": tone(0.5)}, {"audio": tone(0.8, 220)}, {"audio": tone(0.5, 900)}]
LABELS = {"candidate_labels": ["a cat", "the queue", "people"]}
TABLE = {"city": ["oslo", "rome", "paris"], "people": ["7", "28", 21]}
SMALL_TABLE = {"cat": ["a", "b"], "dog": ["5", "1"], "total": ["2", "9"]}
BOXES = [["the", [10, 10, 40, 20]], ["total", [50, 10, 90, 20]], ["is", [100, 10, 120, 20]], ["42", [130, 10, 150, 20]]]
GREEDY = {"do_sample": False, "max_new_tokens": 5}


@dataclass
class Case:
    """`batches`: the sizes of the forwards when all items come together, smallest first; `call`: transformers' own."""

    items: list[dict[str, Any]]
    batches: list[int]
    call: Callable[[Any, Any, dict[str, Any]], Any]
    parameters: dict[str, Any] = field(default_factory=dict)


def by_text(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    return pipe(item.text, **given)


def by_image(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    return pipe(picture(item.image), **given)


def by_sound(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    return pipe(audio(item.audio, 16_000), **given)


def by_video(pipe: Any, item: Any, given: dict[str, Any], *, folder: Path) -> Any:
    file = folder / "video.mp4"
    file.write_bytes(item.video)
    return pipe(str(file), **given)


def picture(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def by_page(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    return pipe(image=None, question=item.question, word_boxes=item.word_boxes, **given)


def by_table(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    columns = {name: [str(cell) for cell in column] for name, column in item.table.items()}
    return pipe(table=columns, query=item.query, **given)


def by_label(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    return pipe(picture(item.image), candidate_labels=LABELS["candidate_labels"], **given)


def by_both(pipe: Any, item: Any, given: dict[str, Any]) -> Any:
    return pipe(images=picture(item.image), text=item.text, **given) if item.image else pipe(text=item.text, **given)


QUESTIONS = {
    "good": {"type": "noul", "instructions": "is it good?"},
    "kind": {"type": "choice", "criteria": {"cat": None, "dog": "it barks"}},
}
STATES = [{"state": text["text"], "questions": QUESTIONS} for text in TEXTS]
PAGES = [{"question": question, "word_boxes": BOXES * n} for question, n in (("total?", 1), ("how many is it?", 2))]
LONG_PAGE = {"question": "what is the total?", "word_boxes": BOXES * 12}  # read in windows
PROMPTS = [{"image": png(seed=n), "text": f"<image>{TEXTS[n]['text']}"} for n in range(3)]
CASES = {
    "any-to-any": Case(PROMPTS, [3], by_both, {"generate_kwargs": GREEDY, "return_full_text": False}),
    "audio-classification": Case(SOUNDS, [3], by_sound),
    "audio-classification/no-mask": Case(SOUNDS, [1, 2], by_sound, {"top_k": 1}),
    "automatic-speech-recognition": Case(SOUNDS, [3], by_sound, {"return_timestamps": "char"}),
    "automatic-speech-recognition/no-mask": Case(SOUNDS, [1, 2], by_sound),
    "automatic-speech-recognition/whisper": Case(
        SOUNDS, [3], by_sound, {"generate_kwargs": {"max_new_tokens": 8, "num_beams": 1, "language": "en"}}
    ),
    "decision": Case(STATES, [1, 1, 1], lambda pipe, item, given: pipe(item.model_dump(exclude_none=True))),
    "depth-estimation": Case(IMAGES, [3], by_image),
    "document-question-answering": Case(PAGES, [2], by_page, {"top_k": 2}),
    "feature-extraction": Case(TEXTS, [3], by_text),
    "fill-mask": Case(
        [{"text": t} for t in ("a [MASK]", "the queue keeps [MASK] it was.")], [2], by_text, {"top_k": 3}
    ),
    "image-classification": Case(IMAGES, [3], by_image, {"top_k": 2}),
    "image-feature-extraction": Case(IMAGES, [3], by_image, {"pool": True}),
    "image-segmentation": Case(IMAGES, [3], by_image),
    "image-text-to-text": Case(PROMPTS, [3], by_both, {"generate_kwargs": GREEDY}),
    "keypoint-matching": Case(
        [{"images": [png(seed=n), png(seed=n + 1)]} for n in range(2)], [1, 1],
        lambda pipe, item, given: pipe([picture(data) for data in item.images], **given),
    ),
    "mask-generation": Case(
        IMAGES[:2], [1, 1], by_image,
        {"points_per_crop": 4, "points_per_batch": 6, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0,
         "output_bboxes_mask": True, "output_rle_mask": True},
    ),
    "object-detection": Case(IMAGES, [1, 2], by_image, {"threshold": 0.1}),
    "table-question-answering": Case(
        [{"table": TABLE, "query": "people in oslo?"}, {"table": SMALL_TABLE, "query": "how many is this?"}], [2],
        by_table,
    ),
    "text-classification": Case([*TEXTS, {"text": "a cat", "text_pair": "a dog"}], [4], lambda pipe, item, given: pipe(
        {"text": item.text, "text_pair": item.text_pair} if item.text_pair else item.text, **given), {"top_k": 2}),
    "text-classification/no-pad": Case(TEXTS, [1, 1, 1], by_text),
    "text-generation": Case(
        TEXTS, [3], by_text, {**GREEDY, "num_return_sequences": 2, "num_beams": 2, "return_full_text": False}
    ),
    "text-generation/absolute": Case(TEXTS, [3], by_text, GREEDY),
    "text-generation/no-pad": Case([TEXTS[0], TEXTS[2], {"text": "a dog"}], [1, 2], by_text, GREEDY),
    "text-to-audio": Case(TEXTS[:2], [1, 1], by_text),
    "text-to-audio/vocoder": Case(TEXTS[:2], [1, 1], by_text, {"forward_params": {"speaker_embeddings": [1, 0, 2, 1]}}),
    "token-classification": Case(TEXTS, [3], by_text, {"aggregation_strategy": "simple"}),
    "video-classification": Case([{"video": video(4, seed)} for seed in (0, 40)], [2], by_video),
    "zero-shot-audio-classification": Case(SOUNDS, [3], by_sound, LABELS),
    "zero-shot-classification": Case(TEXTS, [9], by_text, LABELS | {"multi_label": True}),
    "zero-shot-image-classification": Case(IMAGES, [3], by_image, LABELS),
    "zero-shot-object-detection": Case(IMAGES, [9], by_label, LABELS | {"threshold": 0.0, "top_k": 4}),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PipelineHandler]:
    return loader(tmp_path_factory.mktemp("models"))


@pytest.mark.long
def test_every_task_of_the_installed_transformers_is_served() -> None:
    install_torchvision_ops()
    from transformers.pipelines import SUPPORTED_TASKS

    assert set(PIPELINE_TASKS) == set(SUPPORTED_TASKS) == set(BATCHING) == {name.partition("/")[0] for name in MODELS}
    assert set(CASES) == set(MODELS)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_jobs_answers_what_each_job_alone_answers(
    name: str, loaded: Callable[..., PipelineHandler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, case = loaded(name), CASES[name]
    parameters = handler.io.parameters.model_validate(case.parameters)
    items = [as_item(handler.io, item) for item in case.items]
    sizes: list[int] = []

    def spy(batch: list[Any]) -> list[Any]:
        sizes.append(len(batch))
        return type(handler).predict(handler, batch)

    monkeypatch.setattr(handler, "predict", spy)
    together = [plain(output) for output in run_items(handler, items, parameters)]
    assert sorted(sizes) == case.batches
    alone = [plain(run_items(handler, [item], parameters)[0]) for item in items]
    assert_close(together, alone)
    given = call_arguments(handler.task, parameters)
    more = {"folder": tmp_path} if case.call is by_video else {}
    own = [plain(output_of(handler.task, case.call(handler.pipe, item, given, **more), handler.pipe)) for item in items]
    assert_close(alone, own)
    assert alone[0] != alone[1], "different inputs must have different answers, or this test sees nothing"
    for answer in together:
        TypeAdapter(handler.io.output).validate_python(answer)


@pytest.mark.parametrize("name", CASES)
def test_its_example_warms_it_up(name: str, loaded: Callable[..., PipelineHandler]) -> None:
    assert warm_up(loaded(name))


@pytest.mark.parametrize("name", CASES)
def test_docs_say_how_it_batches(name: str, loaded: Callable[..., PipelineHandler]) -> None:
    batching = loaded(name).batching
    assert batching in (BATCHING[name.partition("/")[0]], Batching.EQUAL, Batching.SINGLE)
    if "/" not in name:
        assert batching is BATCHING[name]


def test_long_inputs_become_chunks_that_batch_with_other_jobs(loaded: Callable[..., PipelineHandler]) -> None:
    handler = loaded("document-question-answering")
    parameters = handler.io.parameters()
    items = [as_item(handler.io, item) for item in (LONG_PAGE, PAGES[0])]
    chunks = handler.prepare(items[0], parameters)
    assert isinstance(chunks, list)
    assert len(chunks) > 1
    short = handler.prepare(items[1], parameters)
    assert isinstance(short, list)
    assert {chunk.group for chunk in chunks} == {chunk.group for chunk in short}
    alone = [plain(run_items(handler, [item], parameters)[0]) for item in items]
    assert_close([plain(answer) for answer in run_items(handler, items, parameters)], alone)
    assert_close(alone[0], plain(by_page(handler.pipe, items[0], {})))


def test_speech_in_windows(loaded: Callable[..., PipelineHandler]) -> None:
    handler = loaded("automatic-speech-recognition")
    parameters = handler.io.parameters.model_validate({"chunk_length_s": 0.4, "stride_length_s": [0.1, 0.1]})
    items = [as_item(handler.io, {"audio": tone(1.3, 300)}), as_item(handler.io, SOUNDS[0])]
    together = [plain(answer) for answer in run_items(handler, items, parameters)]
    given = call_arguments(handler.task, parameters)
    assert_close(together, [plain(by_sound(handler.pipe, item, given)) for item in items])


def test_parameters_of_the_forward_part_the_batches(loaded: Callable[..., PipelineHandler]) -> None:
    handler = loaded("text-generation")
    item = as_item(handler.io, TEXTS[0])

    def group(**given: Any) -> Any:
        prepared = handler.prepare(item, handler.io.parameters.model_validate(given))
        assert isinstance(prepared, Prepared)
        assert prepared.cost == len("a cat")  # a token for each byte
        return prepared.group

    assert group(max_new_tokens=4) == group(max_new_tokens=4, return_full_text=False)
    assert len({group(max_new_tokens=4), group(max_new_tokens=5), group(max_new_tokens=4, do_sample=False)}) == 3


def assert_close(left: Any, right: Any) -> None:
    """Equal but for rounding: numbers within 1e-4, pixels and samples within two steps."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_close(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_close(one, other)
    elif isinstance(left, float):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-4)
    elif isinstance(left, str) and left != right and left[:5] in ("iVBOR", "UklGR"):
        one, other = _decoded(left), _decoded(right)
        assert one.shape == other.shape
        assert abs(one - other).max() <= 2
    else:
        assert left == right


def _decoded(text: str) -> Any:
    import numpy
    import soundfile

    data = io.BytesIO(base64.b64decode(text))
    return numpy.asarray(picture(data.getvalue()), "int") if text[0] == "i" else soundfile.read(data, dtype="int16")[0]
