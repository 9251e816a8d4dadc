"""Images, recordings and videos: real files with damage, through the very functions that every handler calls."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

import pytest
from hypothesis import strategies as st
from PIL import Image

from shared.errors import InvalidInput
from shared.task import Split, parse_item
from shared.tasks import BUILT_IN, IMAGE_CLASSIFICATION, TopK
from tests import hostile_media as hostile
from tests import models as tiny
from tests.fuzz.bounds import fuzzed
from tests.fuzz.hostile import damaged, json_values
from tests.pipeline_models import loader
from worker.handler import ItemError
from worker.handlers.images import decode_image
from worker.handlers.pipeline import PipelineHandler
from worker.handlers.pipeline_media import audio, video_file
from worker.handlers.vision import TorchvisionClassifier

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF and TIFF tags


def _images() -> list[bytes]:
    picture = Image.effect_noise((40, 30), 50)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a" * 40
    found = [
        hostile.saved(picture.convert(mode), kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
        for mode, kind in (*hostile._MODES, ("RGB", "PNG"), ("RGB", "BMP"), ("L", "TIFF"), ("RGB", "JPEG"))
    ]
    for compression in ("tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate", "group4"):
        mode = "1" if compression == "group4" else "RGB"
        found.append(hostile.saved(picture.convert(mode), "TIFF", compression=compression))
    found.append(hostile.saved(picture, "JPEG", progressive=True, icc_profile=b"not a profile" * 9))
    return [*found, hostile.animated("GIF", 3), hostile.animated("WEBP", 3), hostile.animated("TIFF", 3)]


IMAGES = _images()


@fuzzed(damaged(IMAGES), examples=50)
def test_images(data: bytes) -> None:
    try:
        found = decode_image(data)
    except ItemError as error:
        refused = error.code
    else:
        assert found.mode == "RGB"
        assert 0 < found.width * found.height <= 89_000_000
        return
    assert refused == "invalid_input"


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> TorchvisionClassifier:
    tiny.ready_torch()
    weights, labels = tiny.mobilenet(tmp_path_factory.mktemp("mobilenet"), 7)
    handler = TorchvisionClassifier()
    handler.load(
        tiny.context("torchvision:mobilenet_v3_small", options={"weights": str(weights), "labels": str(labels)})
    )
    return handler


@fuzzed(damaged(IMAGES, most=2), examples=40)
def test_a_handler_prepares_an_image_or_refuses_it(vision: TorchvisionClassifier, data: bytes) -> None:
    item = IMAGE_CLASSIFICATION.item(image=data)
    try:
        prepared = vision.prepare(item, TopK())
    except ItemError:
        return
    assert prepared.group == (3, 224, 224)


def _sounds() -> list[bytes]:
    import numpy
    import soundfile

    wave = numpy.sin(numpy.arange(4000) / 9).astype("float32")
    found = [hostile.wav(), hostile.wav(rate=8000, channels=2, bits=8), hostile.wav(bits=32), hostile.wav(told=2**31)]
    for kind, subtype in (
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
        ("AIFF", None),
        ("CAF", None),
    ):
        out = io.BytesIO()
        soundfile.write(out, wave, 16_000, format=kind, subtype=subtype)
        found.append(out.getvalue())
    return found


@fuzzed(damaged(_sounds()), st.sampled_from([8_000, 16_000, 44_100]), examples=60)
def test_sounds(data: bytes, rate: int) -> None:
    try:
        found = audio(data, rate)
    except ItemError as error:
        refused = error.code
    else:
        assert found.ndim == 1
        assert found.dtype == "float32"
        assert len(found)
        return
    assert refused == "invalid_input"


def _videos() -> list[bytes]:
    import av
    import numpy

    found = []
    for kind, codec in (("matroska", "mjpeg"), ("mp4", "mpeg4"), ("avi", "mjpeg"), ("mov", "mjpeg"), ("webm", "vp9")):
        out = io.BytesIO()
        with av.open(out, "w", format=kind) as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height = 32, 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(6):
                picture = numpy.full((32, 32, 3), number * 40, "uint8")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        found.append(out.getvalue())
    strange = [found[0].replace(b"V_MJPEG", b"V_XXXXX"), found[1].replace(b"mp4v", b"xxxx")]
    return found + strange + [found[1].replace(b"a title", b"a \xfftle"), found[2].replace(b"MJPG", b"\0\0\0\0")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> PipelineHandler:
    return loader(tmp_path_factory.mktemp("models"))("video-classification")


@fuzzed(damaged(_videos(), most=3), examples=60)
def test_videos(clips: PipelineHandler, data: bytes) -> None:
    try:
        with video_file(data) as path:
            assert path
        clips.prepare(clips.io.item(video=data), clips.io.parameters())
    except ItemError as error:
        refused = (error.code, error.pointer)
    else:
        return
    assert refused == ("invalid_input", "/video")


_BASE64 = [base64.b64encode(data) for data in (b"", b"a", struct.pack("<4I", 1, 2, 3, 2**32 - 1))]
blobs = damaged([*_BASE64, b"data:image/png;base64,aGk=", b"data:,", b"aGk\n=", b"a-_="]).map(
    lambda b: b.decode("latin-1")
)
BINARY = [task for task in BUILT_IN.values() if "image" in getattr(task.item, "model_fields", {})]


@fuzzed(st.sampled_from(BINARY), blobs | json_values, examples=50)
def test_base64(task: Any, value: Any) -> None:
    try:
        found = parse_item(task, Split([{"image": value, "text": "a"}], "one"), 0)
    except InvalidInput as error:
        refused = [fault.pointer for fault in error.faults]
    else:
        assert isinstance(found.image, bytes | None)
        return
    assert refused
