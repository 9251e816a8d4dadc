"""Images, recordings and videos that claim much, hold little, or are not what they say: refused one by one, in bounded
memory, and nobody beside them notices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.tasks import ImageItem, TopK
from tests import hostile_media as hostile
from tests import models as tiny
from tests.pipeline_models import loader
from worker.handler import ItemError
from worker.handlers.images import decode_image, sample_image
from worker.handlers.pipeline import PipelineHandler
from worker.handlers.pipeline_media import MAX_SAMPLES, audio, video_file
from worker.handlers.vision import TorchvisionClassifier
from worker.inprocess import run_items

# Each in a process whose memory may not grow beyond what the largest allowed picture takes.
DECODER = """
import resource, sys
from pathlib import Path
from worker.handler import ItemError
from worker.handlers.images import decode_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(path.read_bytes())
        print(path.name, "taken")
    except ItemError as error:
        print(path.name, error.code, error.pointer, error.message)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(f"grown by {grown} MB" if grown > 150 else "")
"""


@pytest.fixture(scope="module")
def refused() -> dict[str, bytes]:
    return hostile.refused_images()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PipelineHandler]:
    return loader(tmp_path_factory.mktemp("models"))


def test_images_are_refused_in_bounded_memory(tmp_path: Path, refused: dict[str, bytes], repository: Path) -> None:
    names = list(refused)
    for number, data in enumerate(refused.values()):
        (tmp_path / f"{number:03d}").write_bytes(data)
    command = [sys.executable, "-c", DECODER, str(tmp_path)]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    lines = run.stdout.strip().splitlines()
    assert len(lines) == len(names), lines[-1]
    for name, line in zip(names, lines, strict=True):
        assert " invalid_input /image " in line, (name, line)
        assert "MemoryError" not in line, name


def test_neighbours_of_hostile_images_are_answered(tmp_path: Path, refused: dict[str, bytes]) -> None:
    tiny.ready_torch()
    weights, labels = tiny.mobilenet(tmp_path, 7)
    handler = TorchvisionClassifier()
    options = {"weights": str(weights), "labels": str(labels)}
    handler.load(tiny.context("torchvision:mobilenet_v3_small", options=options))
    good = sample_image(300)
    answers = run_items(handler, [ImageItem(image=data) for data in (good, *refused.values(), good)], TopK())
    assert answers[0] == answers[-1]
    assert len(answers[0]["labels"]) == 5
    for name, one in zip(refused, answers[1:-1], strict=True):
        assert isinstance(one, ItemError), name
        assert (one.code, one.pointer) == ("invalid_input", "/image"), name


@pytest.fixture(scope="module")
def taken() -> dict[str, bytes]:
    return hostile.taken_images()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_odd_images_are_taken(taken: dict[str, bytes]) -> None:
    for name, data in taken.items():
        assert decode_image(data).mode == "RGB", name


def test_sixteen_bits_are_not_clipped_to_white(taken: dict[str, bytes]) -> None:
    for name in ("16 bits as PNG", "16 bits as TIFF"):
        assert decode_image(taken[name]).getpixel((0, 0)) == (156, 156, 156)


def test_sounds_are_refused() -> None:
    for name, data in hostile.refused_sounds().items():
        with pytest.raises(ItemError) as caught:
            audio(data, 16_000)
        assert (caught.value.code, caught.value.pointer) == ("invalid_input", "/audio"), name


def test_a_sound_that_claims_hours_is_as_long_as_it_is() -> None:
    assert len(audio(hostile.wav(told=2**31), 16_000)) == 1600
    assert len(audio(hostile.flac_of(600), 16_000)) == 9_600_000 < MAX_SAMPLES


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: b"", "not a video"),
        (lambda: bytes(1000), "not a video"),
        (lambda: hostile.video_of(64, 48)[:600], ""),
        (lambda: hostile.video_of(64, 48, seconds=3 * 3600), "longer than"),
        (lambda: hostile.video_of(8192, 4096), "pixels"),
        (lambda: b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", "not a video"),
        (lambda: b"ffconcat version 1.0\nfile /etc/hostname\n", "not a video"),
        (lambda: hostile.animated("GIF", 10), "not a video"),
        (hostile.wav, "not a video"),
        (lambda: b"http://127.0.0.1:1/video.mp4", "not a video"),
    ],
)
def test_videos_are_refused(make: Callable[[], bytes], told: str, loaded: Callable[..., PipelineHandler]) -> None:
    handler = loaded("video-classification")
    item = handler.io.item.model_validate({"video": make()})
    (answer,) = run_items(handler, [item], handler.io.parameters())
    assert isinstance(answer, ItemError)
    assert (answer.code, answer.pointer) == ("invalid_input", "/video")
    assert told in answer.message


def test_no_video_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ItemError), video_file(b"#EXTM3U\n"):
        raise AssertionError("it was opened")
    assert list(tmp_path.iterdir()) == []
