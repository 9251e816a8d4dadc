"""The task `image-classification` for an `.onnx` file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import ConfigError
from worker.handler import Context
from worker.handlers.images import decode_image, sample_image
from worker.handlers.vision import ImageClassifier, labels_of, torchvision_weights
from worker.onnx import files_beside, load, onnx_file
from worker.sources import TORCHVISION

_PREPROCESSOR, _CONFIG = "preprocessor_config.json", "config.json"


class OnnxClassifier(ImageClassifier):
    """Options of a version: `preprocess: torchvision:NAME`, as that model of torchvision does it; without it as the
    preprocessor_config.json beside the file says. `labels`: a file, without it those of config.json or of torchvision.
    The file takes pixels [N, 3, H, W] and gives logits [N, classes]."""

    def load(self, ctx: Context) -> None:
        """Raises ConfigError for a file that takes or gives something else, and labels that do not fit."""
        import torch

        file = onnx_file(ctx.source)
        self.model = load(file, ctx, threads=torch.get_num_threads())
        if len(self.model.inputs) != 1 or len(next(iter(self.model.inputs.values())).shape or ()) != 4:
            raise ConfigError(f"{file} takes {', '.join(self.model.inputs)}; image-classification gives [N, 3, H, W]")
        self.input, self.output = next(iter(self.model.inputs)), next(iter(self.model.outputs))
        self.pixels, labels = _preprocessing(file, ctx)
        self.labels = labels_of(ctx.options.get("labels")) or labels
        classes = len(self.predict([self.pixels(decode_image(sample_image()))])[0])
        if classes != len(self.labels):
            raise ConfigError(f"{len(self.labels)} labels for a model of {classes} classes; give the option labels")

    def unload(self) -> None:
        """Drops the session."""
        del self.model

    def predict(self, batch: list[Any]) -> list[Any]:
        """Probabilities, float32 [classes] each."""
        import torch

        with torch.inference_mode():
            (logits,) = self.model.run({self.input: torch.stack(batch).numpy()}, [self.output])
            return list(torch.from_numpy(logits).float().softmax(dim=1))


def _preprocessing(file: Path, ctx: Context) -> tuple[Callable[[Any], Any], list[str]]:
    """A picture to pixels, and the labels as far as the files know them."""
    like = str(ctx.options.get("preprocess", ""))
    if like.startswith(TORCHVISION):
        weights = torchvision_weights(like.removeprefix(TORCHVISION))
        return weights.transforms(), list(weights.meta["categories"])
    if like:
        raise ConfigError(f"preprocess {like!r}: write {TORCHVISION}NAME, or leave it out")
    from transformers import AutoImageProcessor

    folder = files_beside(file, _PREPROCESSOR)
    processor: Any = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers' own

    def pixels(image: Any) -> Any:
        return processor(image, return_tensors="pt")["pixel_values"][0]

    return pixels, _config_labels(folder)


def _config_labels(folder: Path) -> list[str]:
    path = folder / _CONFIG
    names = json.loads(path.read_text(encoding="utf-8")).get("id2label", {}) if path.is_file() else {}
    return [names[number] for number in sorted(names, key=int)]
