"""What pipelines meet beside the good case: broken files, long texts, chats, threads, models that cannot be padded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InvalidInput
from shared.tasks import PIPELINE_TASKS, check
from tests.pipeline_models import loader, make
from worker.handler import Context, ItemError, Prepared
from worker.handlers.pipeline import PipelineHandler, pipeline_handler
from worker.handlers.pipeline_collate import Batching
from worker.handlers.pipeline_examples import png, tone, video
from worker.handlers.pipeline_media import audio
from worker.inprocess import as_item, plain, run_items, warm_up

Load = Callable[..., PipelineHandler]
LABELS = {"candidate_labels": ["a cat", "a dog"]}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Load:
    return loader(tmp_path_factory.mktemp("models"))


def answer(handler: PipelineHandler, item: dict[str, Any], **parameters: Any) -> Any:
    given = handler.io.parameters.model_validate(parameters)
    return run_items(handler, [as_item(handler.io, item)], given)[0]


def fault(handler: PipelineHandler, item: dict[str, Any], **parameters: Any) -> ItemError:
    error = answer(handler, item, **parameters)
    assert isinstance(error, ItemError), error
    assert error.code == "invalid_input"
    return error


@pytest.mark.parametrize(
    ("name", "item", "pointer"),
    [
        ("image-classification", {"image": b"no image"}, "/image"),
        ("keypoint-matching", {"images": [png(), png()[:50]]}, "/images/1"),
        ("audio-classification", {"audio": b"no sound"}, "/audio"),
        ("automatic-speech-recognition", {"audio": tone(0)}, "/audio"),
        ("video-classification", {"video": b"no video"}, "/video"),
        ("video-classification", {"video": tone(1)}, "/video"),
        ("video-classification", {"video": video(2)}, "/video"),
        ("image-text-to-text", {"image": b"", "text": "<image>?"}, "/image"),
    ],
)
def test_a_file_that_cannot_be_read_fails_alone(name: str, item: dict[str, Any], pointer: str, loaded: Load) -> None:
    assert fault(loaded(name), item).pointer == pointer


def test_a_broken_neighbour_does_no_harm(loaded: Load) -> None:
    handler = loaded("image-classification")
    items = [as_item(handler.io, {"image": data}) for data in (png(), b"broken", png(seed=4))]
    answers = run_items(handler, items, handler.io.parameters())
    assert isinstance(answers[1], ItemError)
    alone = answer(handler, {"image": png()})["labels"]
    assert [label["score"] for label in answers[0]["labels"]] == pytest.approx([label["score"] for label in alone])
    assert answers[2]["labels"]


def test_what_a_pipeline_refuses_is_the_callers_fault(loaded: Load) -> None:
    assert "mask_token" in fault(loaded("fill-mask"), {"text": "nothing to fill"}).message
    speech = loaded("automatic-speech-recognition")
    assert "timestamps" in fault(speech, {"audio": tone(0.3)}, return_timestamps=True).message
    assert "chat" in fault(loaded("text-generation/no-pad"), {"text": [{"role": "user", "content": "hi"}]}).message
    assert fault(loaded("document-question-answering"), {"image": png(), "question": "total?"}).message


@pytest.mark.parametrize(
    ("task", "item", "parameters"),
    [
        ("image-classification", {"image": "/etc/hostname"}, {}),
        ("image-classification", {"image": "http://localhost/cat.png"}, {}),
        ("image-text-to-text", {"text": [{"role": "user", "content": [{"type": "image", "url": "file:///etc"}]}]}, {}),
        ("text-generation", {"text": "a"}, {"tokenizer": "x"}),
        ("zero-shot-classification", {"text": "a"}, {}),
        ("zero-shot-classification", {"text": "a"}, {**LABELS, "hypothesis_template": "{0.__class__}"}),
        ("table-question-answering", {"table": {"a": ["1"], "b": []}, "query": "?"}, {}),
        ("document-question-answering", {"question": "?"}, {}),
        ("text-generation", {"text": ""}, {}),
    ],
)
def test_what_the_models_of_a_task_refuse(task: str, item: dict[str, Any], parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        check(PIPELINE_TASKS[task], item, parameters)


def test_a_text_over_the_models_limit_is_cut_and_told_or_refused(loaded: Load) -> None:
    long = {"text": "queue " * 200}
    for name, parameters in (
        ("text-classification", {}),
        ("feature-extraction", {}),
        ("token-classification", {}),
        ("zero-shot-classification", LABELS),
        ("text-generation/absolute", {"max_new_tokens": 4, "do_sample": False}),
    ):
        cutting, refusing = loaded(name), loaded(name, on_overlong="refuse")
        given = cutting.io.parameters.model_validate(parameters)
        prepared = cutting.prepare(as_item(cutting.io, long), given)
        first = prepared if isinstance(prepared, Prepared) else prepared[0]
        assert first.notes == {"truncated": True}, name
        assert first.cost <= 64
        assert not isinstance(answer(cutting, long, **parameters), ItemError)
        assert "at most 64" in fault(refusing, long, **parameters).message
        assert not isinstance(answer(refusing, {"text": "a cat"}, **parameters), ItemError)


def test_a_long_text_in_windows_is_not_cut(loaded: Load) -> None:
    handler = loaded("token-classification", on_overlong="refuse")
    entities = answer(handler, {"text": "queue cat " * 60}, stride=8, aggregation_strategy="simple", ignore_labels=[])
    assert entities[-1]["end"] >= 590


def test_chats(loaded: Load) -> None:
    greedy = {"max_new_tokens": 3, "do_sample": False}
    chat = [{"role": "user", "content": "a cat?"}]
    (generated,) = plain(answer(loaded("text-generation"), {"text": chat}, **greedy))
    assert generated["generated_text"][0] == chat[0]
    assert generated["generated_text"][1]["role"] == "assistant"
    handler, pictures = loaded("image-text-to-text"), [png(), png(seed=9)]
    content = [[{"type": "image", "image": data}, {"type": "text", "text": "what?"}] for data in pictures]
    items = [as_item(handler.io, {"text": [{"role": "user", "content": parts}]}) for parts in content]
    given = handler.io.parameters.model_validate({"generate_kwargs": greedy, "return_full_text": False})
    together = [run_items(handler, items, given), [run_items(handler, [item], given)[0] for item in items]]
    assert plain(together[0]) == plain(together[1])
    broken = {"text": [{"role": "user", "content": [{"type": "image", "image": b"x"}]}]}
    assert fault(handler, broken).pointer == "/text/0/content/0/image"


def test_an_answer_in_a_chat_tells_its_length_and_why_it_ended(loaded: Load) -> None:
    handler = loaded("text-generation")
    chats = [{"text": [{"role": "user", "content": content}]} for content in ("a cat?", "and a much longer one", "b")]

    def told(number: int, **more: Any) -> tuple[str, str, int]:
        (generated,) = plain(answer(handler, chats[number], do_sample=False, **more))
        return generated["generated_text"][-1]["content"], generated["finish_reason"], generated["tokens"]

    text, why, tokens = told(0, max_new_tokens=12)
    assert (why, tokens) == ("length", 12)
    mark = next(letter for letter in text if letter.isascii())
    cut, why, tokens = told(0, max_new_tokens=12, stop_sequence=[mark])
    assert (cut.endswith(mark), why, tokens < 12) == (True, "stop", True)
    config, said = handler.pipe.model.generation_config, said_tokens(handler, chats[0])
    before = config.eos_token_id
    config.eos_token_id = [before, said[2]]
    try:
        assert told(0, max_new_tokens=12)[1:] == ("stop", said.index(said[2]) + 1)
        given = handler.io.parameters.model_validate({"max_new_tokens": 12, "do_sample": False})
        together = plain(run_items(handler, [as_item(handler.io, chat) for chat in chats], given))
        alone = [plain(answer(handler, chat, max_new_tokens=12, do_sample=False)) for chat in chats]
        assert together == alone, "whoever is in the same batch"
    finally:
        config.eos_token_id = before
    (plain_text,) = plain(answer(handler, {"text": "a cat"}, max_new_tokens=2, do_sample=False))
    assert plain_text.keys() == {"generated_text"}, "of a prompt, as the pipeline says"


def said_tokens(handler: PipelineHandler, chat: dict[str, Any]) -> list[int]:
    """What the model says to it."""
    prepared = handler.prepare(
        as_item(handler.io, chat), handler.io.parameters.model_validate({"max_new_tokens": 12, "do_sample": False})
    )
    assert isinstance(prepared, Prepared)
    (output,) = handler.predict([prepared.item])
    found: list[int] = output["generated_sequence"][0][0][output["input_ids"].shape[-1] :].tolist()
    return found


def test_many_threads_prepare_as_one_does(loaded: Load) -> None:
    handler = loaded("token-classification")
    jobs = [({"text": "queue cat " * (1 + n % 40)}, {"stride": 8} if n % 2 else {}) for n in range(60)]

    def lengths(job: tuple[dict[str, Any], dict[str, Any]]) -> list[int]:
        prepared = handler.prepare(as_item(handler.io, job[0]), handler.io.parameters.model_validate(job[1]))
        assert isinstance(prepared, list)
        return [chunk.cost for chunk in prepared]

    expected = [lengths(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lengths, jobs)) == expected


def test_a_model_whose_answers_change_with_padding_gets_equal_shapes(tmp_path: Path) -> None:
    source = make("text-classification", tmp_path)
    settings = source / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": "left"}))
    handler = pipeline_handler("text-classification")()
    handler.load(Context(model="left", version="1", source=str(source)))
    assert handler.batching is Batching.EQUAL


@pytest.mark.parametrize("name", ["table-question-answering", "depth-estimation", "feature-extraction"])
def test_half_precision(name: str, loaded: Load) -> None:
    assert warm_up(loaded(name, dtype="bfloat16"))


def test_sounds_without_a_mask_are_not_padded(loaded: Load) -> None:
    for task in ("audio-classification", "automatic-speech-recognition"):
        assert loaded(task).batching is Batching.PADDED
        assert loaded(f"{task}/no-mask").batching is Batching.EQUAL


def test_mask_generation_leaves_the_model_to_the_device_thread(loaded: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = loaded("mask-generation")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model ran in prepare")

    monkeypatch.setattr(handler.pipe.model, "get_image_embeddings", refuse)
    item = as_item(handler.io, {"image": png()})
    assert isinstance(handler.prepare(item, handler.io.parameters()), Prepared)


def test_whisper_tells_times_and_languages(loaded: Load) -> None:
    handler = loaded("automatic-speech-recognition/whisper")
    kwargs = {"generate_kwargs": {"max_new_tokens": 4, "num_beams": 1}}
    items = [as_item(handler.io, {"audio": tone(0.5, hertz)}) for hertz in (440, 2000)]
    for parameters in ({"return_language": True, **kwargs}, {"return_timestamps": "word", **kwargs}):
        given = handler.io.parameters.model_validate(parameters)
        together = plain(run_items(handler, items, given))
        assert [text["text"] for text in together] == [
            answer(handler, item.model_dump(), **parameters)["text"] for item in items
        ]
    languages = handler.io.parameters.model_validate({"return_language": True})
    groups = {handler.prepare(item, languages)[0].group for item in items}  # type: ignore[index]
    assert len(groups) == 2  # transformers reads the language of a batch's first row only


def test_recordings_of_any_rate_and_width_become_mono_at_the_models_rate() -> None:
    import numpy
    import soundfile

    seconds = numpy.arange(44_100) / 44_100
    stereo = numpy.stack([numpy.sin(2 * numpy.pi * 440 * seconds), numpy.zeros(44_100)], axis=1)
    for kind in ("WAV", "FLAC", "OGG"):
        file = io.BytesIO()
        soundfile.write(file, stereo, 44_100, format=kind)
        samples = audio(file.getvalue(), 16_000)
        assert samples.shape == (16_000,)
        assert samples.dtype == numpy.float32
        expected = 0.5 * numpy.sin(2 * numpy.pi * 440 * numpy.arange(16_000) / 16_000)
        assert abs(samples[200:-200] - expected[200:-200]).max() < 0.02
