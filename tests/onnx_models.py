"""Real models as .onnx files, exported by torch."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

from tests import models

_TOKENS = ("input_ids", "attention_mask", "token_type_ids")


def encoder(source: str | Path, folder: Path) -> Path:
    """The encoder in `source` as `folder`/onnx/model.onnx, its other files beside; as optimum lays them out."""
    models.ready_torch()
    import torch
    from transformers import AutoModel

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    (folder / "onnx").mkdir()
    model = AutoModel.from_pretrained(source, attn_implementation="eager")

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            """Its mask made here: the one that transformers makes is not traced."""
            mask = ((1.0 - attention_mask.float()) * -1e9)[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
            return self.model(input_ids, attention_mask=mask, token_type_ids=token_type_ids).last_hidden_state

    ids = torch.tensor([[101, 7592, 102, 0], [101, 7592, 2088, 102]])
    example = (ids, (ids > 0).long(), torch.zeros_like(ids))
    export(Encoder(), example, folder / "onnx" / "model.onnx", _TOKENS, "last_hidden_state")
    return folder


def classifier(folder: Path, classes: int) -> tuple[Path, Path, Path]:
    """models.mobilenet as `folder`/cnn.onnx; and its weights and labels."""
    weights, labels = models.mobilenet(folder, classes)
    import torch
    from safetensors.torch import load_file
    from torchvision.models import mobilenet_v3_small

    model = mobilenet_v3_small(weights=None, num_classes=classes)
    model.load_state_dict(load_file(weights))
    export(model, (torch.zeros(2, 3, 224, 224),), folder / "cnn.onnx", ("pixels",), "logits", axes={0: "n"})
    return folder / "cnn.onnx", weights, labels


def export(
    model: Any, example: Any, to: Path, inputs: tuple[str, ...], output: str, *, axes: dict[int, str] | None = None
) -> None:
    """By the exporter that needs no further package."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            example,
            str(to),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=dict.fromkeys((*inputs, output), axes or {0: "n", 1: "t"}),
            opset_version=17,
            dynamo=False,
        )
