"""The task `image-classification` for `torchvision:NAME`: any classification model of torchvision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from shared.errors import ConfigError
from shared.tasks import IMAGE_CLASSIFICATION, ImageItem, TopK
from worker.compile import compiled
from worker.handler import Context, Handler, Prepared
from worker.handlers.images import pixels_of, sample_image
from worker.quantize import quantized
from worker.sources import TORCHVISION
from worker.transfer import to_device


class ImageClassifier(Handler[ImageItem, Any]):
    """What classifiers of pictures have in common. `load` sets `pixels`, from a picture to a tensor [3, H, W], and
    `labels`; `predict` gives probabilities, float32 [classes] each."""

    io: ClassVar = IMAGE_CLASSIFICATION
    example: ClassVar = [ImageItem(image=sample_image())]
    pixels: Callable[[Any], Any]
    labels: list[str]

    def prepare(self, item: ImageItem, parameters: TopK) -> Prepared:
        """The preprocessed picture; pictures of one shape share a batch."""
        pixels = pixels_of(item.image, self.pixels)
        return Prepared(pixels, group=tuple(pixels.shape))

    def finish(self, outputs: list[Any], item: ImageItem, parameters: TopK) -> dict[str, Any]:
        """The `top_k` best."""
        return top_labels(outputs[0], self.labels, parameters.top_k)


class TorchvisionClassifier(ImageClassifier):
    """Options of a version: `weights`, a state dict (safetensors, or a torch file that is read with `weights_only`),
    without it torchvision's own default weights, which are downloaded once; `labels`, a file with one label a line
    or a JSON list, without it those of torchvision's weights. Preprocessing is that of torchvision's weights."""

    def load(self, ctx: Context) -> None:
        """Raises ConfigError for an unknown name, weights that do not fit, or labels that do not fit the weights."""
        import torch
        from torchvision.models import get_model

        name = ctx.source.removeprefix(TORCHVISION)
        default = torchvision_weights(name)
        state = _state(ctx.options.get("weights"), name)
        labels = labels_of(ctx.options.get("labels")) or list(default.meta["categories"])
        classes = _classes(name, state, len(labels))
        if len(labels) != classes:
            raise ConfigError(f"{len(labels)} labels for weights of {classes} classes; give the option labels")
        model = get_model(name, weights=None, num_classes=classes, **_quiet(name))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(f"the weights do not fit {name}: {str(error).splitlines()[-1].strip()}") from None
        self.labels = labels
        self.pixels = default.transforms()
        self.device, self.dtype = ctx.device, getattr(torch, ctx.dtype)
        model = model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.model = compiled(quantized(model, ctx.quantize), ctx.compile, ctx.device, same_size=True)

    def predict(self, batch: list[Any]) -> list[Any]:
        """Probabilities, float32 [classes] each."""
        import torch

        with torch.inference_mode():
            pixels = to_device(torch.stack(batch), self.device).to(self.dtype)
            return list(self.model(pixels).float().softmax(dim=1).cpu())


def top_labels(probabilities: Any, labels: list[str], top_k: int) -> dict[str, Any]:
    """The answer of `image-classification` from one row of probabilities (a tensor), best first."""
    scores, places = probabilities.topk(min(top_k, len(labels)))
    pairs = zip(places.tolist(), scores.tolist(), strict=True)
    return {"labels": [{"label": labels[place], "score": score} for place, score in pairs]}


def load_state(path: Path) -> dict[str, Any]:
    """A state dict on the CPU. Raises ConfigError for a file that is missing or not one."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    # Unpicklers and readers raise many kinds on a file of another format.
    except Exception as error:
        raise ConfigError(f"weights {path}: not a state dict: {str(error).splitlines()[0]}") from error
    return dict(state.get("state_dict", state))


def _state(weights: str | None, name: str) -> dict[str, Any]:
    if weights:
        return load_state(Path(weights))
    return default_weights(name)


def torchvision_weights(name: str) -> Any:
    """What torchvision knows of its own weights of a model: transforms, labels, where they are. Raises ConfigError."""
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT
    except ValueError:
        raise ConfigError(f"torchvision has no model {name!r}") from None


def default_weights(name: str) -> dict[str, Any]:
    """Torchvision's own, downloaded once into torch's cache (TORCH_HOME). Raises ConfigError."""
    try:
        return dict(torchvision_weights(name).get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        message = f"torchvision's weights of {name} cannot be downloaded ({error}); give the option weights: a file"
        raise ConfigError(message) from None


def labels_of(path: str | None) -> list[str]:
    """One a line, or a JSON list; none without a path. Raises ConfigError."""
    if not path:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"labels {path}: {error.strerror}") from None
    if Path(path).suffix == ".json":
        names = json.loads(text)
        if not isinstance(names, list):
            raise ConfigError(f"labels {path}: not a JSON list")
        return [str(name) for name in names]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _classes(name: str, state: dict[str, Any], labels: int) -> int:
    """The rows of the tensor that changes with the number of classes: the head's bias or weight."""
    import torch
    from torchvision.models import get_model

    with torch.device("meta"):  # shapes only, nothing is allocated
        few = get_model(name, weights=None, num_classes=2, **_quiet(name)).state_dict()
        more = get_model(name, weights=None, num_classes=3, **_quiet(name)).state_dict()
    for key in few:
        if few[key].shape != more[key].shape and key in state:
            return int(state[key].shape[0])
    return labels


def _quiet(name: str) -> dict[str, Any]:
    """These two warn about their coming defaults unless told."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
