"""`python -m benchmarks.bare MODELS_FILE NAME WAY`: a process that has one model loaded and nothing of the service
around it. Prints `ready`, and ends when its standard input does.

WAY `handler`: by the worker's own loader, warmed up as it does. WAY `library`: as a script without this service would,
with transformers, and one batch of like size; for sentence encoders.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def by_handler(models_file: Path, name: str) -> Any:
    """The loaded model."""
    from benchmarks import forward

    return forward.load(models_file, name, "cpu")


def by_library(models_file: Path, name: str) -> Any:
    """The loaded model and its tokeniser."""
    import torch

    from shared.catalog import load_catalog
    from shared.settings import Settings
    from worker.compat import install_torchvision_ops
    from worker.sources import resolve

    install_torchvision_ops()  # which transformers wants, and this torchvision may lack
    from transformers import AutoModel, AutoTokenizer

    catalog = load_catalog(models_file)
    version = catalog.spec(name).versions[catalog.resolve(name).version]
    source = resolve(version.source, Settings(models_file=models_file))
    model, tokenizer = AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        model(**tokenizer(["a word " * 50] * 10, return_tensors="pt"))
    return model, tokenizer


def main() -> int:
    """0."""
    models_file, name, way = sys.argv[1:]
    loaded = {"handler": by_handler, "library": by_library}[way](Path(models_file), name)
    print("ready", flush=True)
    sys.stdin.read()
    del loaded
    return 0


if __name__ == "__main__":
    sys.exit(main())
