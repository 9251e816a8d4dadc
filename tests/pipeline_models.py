"""A tiny model for each pipeline task, made from a config with random weights and saved in a folder: no hub.

The weights are larger than what training starts from, so that different inputs give clearly different answers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import pipeline_makers_sound
from tests.pipeline_makers import MODELS
from worker.compat import install_torchvision_ops
from worker.handler import Context
from worker.handlers.pipeline import PipelineHandler, pipeline_handler

__all__ = ["MODELS", "loader", "make", "pipeline_makers_sound"]


def make(name: str, folder: Path) -> Path:
    """Make the model `name` (a task, or `task/variant`) under `folder`; returns its folder."""
    import torch

    torch.manual_seed(0)
    target = folder / name.replace("/", "--")
    target.mkdir(parents=True)
    model, *parts = MODELS[name](target)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and model.config.model_type != "vits":  # which only clips then
                parameter.mul_(4)
    model.save_pretrained(target)
    for part in parts:
        part.save_pretrained(target)
    return target


def loader(folder: Path) -> Callable[..., PipelineHandler]:
    """A function that loads the handler of a model by name, made and loaded once for the same context."""
    install_torchvision_ops()
    kept: dict[Any, PipelineHandler] = {}

    def load(name: str, **context: Any) -> PipelineHandler:
        key = (name, *context.items())
        if key not in kept:
            source = folder / name.replace("/", "--")
            if not source.exists():
                make(name, folder)
            options = {"vocoder": str(source / "vocoder")} if name.endswith("/vocoder") else {}
            kept[key] = pipeline_handler(name.partition("/")[0])()
            kept[key].load(Context(model="tiny", version="1", source=str(source), options=options, **context))
        return kept[key]

    return load
