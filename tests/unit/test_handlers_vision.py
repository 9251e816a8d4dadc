"""image-classification by torchvision, the ImageNet example on photographs, and broken pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.errors import ConfigError
from shared.tasks import ImageItem, TopK
from tests import models
from worker.compat import install_torchvision_ops
from worker.handler import ItemError
from worker.handlers import images
from worker.handlers.images import decode_image, sample_image
from worker.handlers.vision import TorchvisionClassifier
from worker.inprocess import run_items, warm_up
from worker.testing import run_handler


def png(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def cnn(folder: Path, *, classes: int = 7, suffix: str = ".safetensors", **options: Any) -> TorchvisionClassifier:
    weights, labels = models.mobilenet(folder, classes, suffix=suffix)
    handler = TorchvisionClassifier()
    own = {"weights": str(weights), "labels": str(labels)} | options
    handler.load(models.context("torchvision:mobilenet_v3_small", options=own))
    return handler


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_torchvision_gives_what_torchvision_gives(tmp_path: Path, suffix: str) -> None:
    import torch
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    handler = cnn(tmp_path, suffix=suffix)
    pictures = [sample_image(300), png(Image.new("RGB", (50, 400), "red"))]
    answers = run_items(handler, [ImageItem(image=data) for data in pictures], TopK(top_k=3))
    model = mobilenet_v3_small(weights=None, num_classes=7).eval()
    model.load_state_dict(handler.model.state_dict())
    transform = MobileNet_V3_Small_Weights.DEFAULT.transforms()
    for answer, data in zip(answers, pictures, strict=True):
        with torch.inference_mode():
            expected = model(transform(Image.open(io.BytesIO(data)).convert("RGB"))[None]).softmax(1)[0]
        scores = [row["score"] for row in answer["labels"]]
        assert answer["labels"][0]["label"] == f"class {int(expected.argmax())}"
        assert scores == pytest.approx(expected.sort(descending=True).values[:3].tolist(), abs=1e-4)
    warm_up(handler)


def test_top_k_is_at_most_the_labels(tmp_path: Path) -> None:
    answer = run_items(cnn(tmp_path), [ImageItem(image=sample_image())], TopK(top_k=100))[0]
    assert len(answer["labels"]) == 7
    assert sum(row["score"] for row in answer["labels"]) == pytest.approx(1, abs=1e-4)


def test_labels_may_be_a_json_list(tmp_path: Path) -> None:
    names = tmp_path / "labels.json"
    names.write_text(json.dumps(["a", "b", "c"]))
    assert cnn(tmp_path, classes=3, labels=str(names)).labels == ["a", "b", "c"]


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match="2 labels for weights of 7 classes"):
        cnn(tmp_path, labels=str(short))
    with pytest.raises(ConfigError, match="no such file"):
        cnn(tmp_path, weights=str(tmp_path / "none.safetensors"))
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a state dict"):
        cnn(tmp_path, weights=str(broken))
    weights, labels = models.mobilenet(tmp_path, 7)
    options = {"weights": str(weights), "labels": str(labels)}
    with pytest.raises(ConfigError, match="do not fit resnet18"):
        TorchvisionClassifier().load(models.context("torchvision:resnet18", options=options))
    with pytest.raises(ConfigError, match="no model 'resnet0'"):
        TorchvisionClassifier().load(models.context("torchvision:resnet0", options=options))


def test_pickled_code_in_weights_is_not_run(tmp_path: Path) -> None:
    import pickle

    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ConfigError, match="not a state dict"):
        cnn(tmp_path, weights=str(evil))
    assert not ran.exists()


def test_a_broken_picture_fails_alone(tmp_path: Path) -> None:
    good = sample_image(300)
    truncated = png(Image.effect_noise((300, 300), 50).convert("RGB"), "JPEG")[:2000]
    answers = run_items(
        cnn(tmp_path), [ImageItem(image=data) for data in (good, b"not a picture", truncated, good)], TopK()
    )
    assert answers[0] == answers[3]
    for broken in answers[1:3]:
        assert isinstance(broken, ItemError)
        assert (broken.code, broken.pointer) == ("invalid_input", "/image")
        assert "not a readable image" in broken.message


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = decode_image(png(Image.new("RGB", (8, 6), "blue").convert(mode), "TIFF"))
    assert (picture.mode, picture.size) == ("RGB", (8, 6))


def test_the_cameras_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode_image(png(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (20, 40)


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    with pytest.raises(ItemError, match="more than 10000 pixels"):
        decode_image(png(Image.new("1", (101, 100))))


@pytest.fixture(scope="module")
def photographs() -> dict[str, bytes]:
    import skimage
    import sklearn

    ours, theirs = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"
    paths = {"cat": ours / "chelsea.png", "coffee": ours / "coffee.png", "flower": theirs / "flower.jpg"}
    return {name: path.read_bytes() for name, path in paths.items()}


def test_the_imagenet_example_names_the_photographs(photographs: dict[str, bytes], repository: Path) -> None:
    from shared.catalog import load_catalog
    from worker.handler_class import handler_class

    spec = load_catalog(repository / "models.yaml").spec("cnn")
    source = spec.versions["1"].source
    items = [ImageItem(image=data) for data in photographs.values()]
    cat, coffee, flower = run_handler(handler_class(spec, base=repository), items, source=source)
    assert {row["label"] for row in cat["labels"][:3]} == {"tabby", "tiger cat", "Egyptian cat"}
    assert coffee["labels"][0]["label"] == "espresso"
    assert coffee["labels"][0]["score"] > 0.8
    assert flower["labels"][0]["label"] == "daisy"


def boxes_by_hand() -> Any:
    import torch

    # Areas 100 each; the second overlaps the first by 90 of 110 (0.818), the third by 50 of 150 (0.333).
    return torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [50, 50, 60, 60]])


@pytest.mark.parametrize(
    ("threshold", "kept"), [(0.5, [1, 3, 2]), (0.9, [1, 0, 3, 2]), (0.3, [1, 3])], ids=["half", "loose", "tight"]
)
def test_nms_keeps_what_a_hand_computation_keeps(threshold: float, kept: list[int]) -> None:
    import torch

    install_torchvision_ops()
    install_torchvision_ops()
    from torchvision.ops import nms

    # With scores .8 .9 .3 .6 the second is first; it overlaps the first by 0.818 and the third by 60 of 140 (0.429).
    assert nms(boxes_by_hand(), torch.tensor([0.8, 0.9, 0.3, 0.6]), threshold).tolist() == kept


def test_nms_of_nothing_is_nothing() -> None:
    import torch

    install_torchvision_ops()
    from torchvision.ops import batched_nms, nms

    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    boxes, scores, classes = boxes_by_hand(), torch.tensor([0.8, 0.9, 0.3, 0.6]), torch.tensor([0, 1, 2, 3])
    assert batched_nms(boxes, scores, classes, 0.1).tolist() == [1, 0, 3, 2]
