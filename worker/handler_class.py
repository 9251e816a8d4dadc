"""Which class runs a model: one that comes with the service, a managed provider's, or a user's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from shared.errors import ConfigError
from shared.model_spec import ModelSpec, VersionSpec
from worker.handler import Handler
from worker.sources import TORCHVISION

_BUILT_IN = {
    "echo": "worker.handlers.echo:Echo",
    "text-embedding": "worker.handlers.text_embedding:TextEmbedding",
    "question-answering": "worker.handlers.question_answering:QuestionAnswering",
}
_ONNX = {
    "text-embedding": "worker.handlers.onnx_text:OnnxTextEmbedding",
    "image-classification": "worker.handlers.onnx_image:OnnxClassifier",
}
_VISION = "worker.handlers.vision:TorchvisionClassifier"

AnyHandler = Handler[Any, Any]


def handler_class(spec: ModelSpec, version: VersionSpec | None = None, *, base: Path | None = None) -> type[AnyHandler]:
    """The class that runs a model. A user's file is looked for under `base` (the models file's folder), then in the
    working folder. Raises ConfigError: no such file, module or class, or not a Handler."""
    if spec.handler is not None:
        return _own(spec.handler, base)
    task = spec.task or ""
    version = version or next(iter(spec.versions.values()))
    if version.provider:
        return _provider(version.provider, task)
    if version.onnx:
        if task not in _ONNX:
            raise ConfigError(
                f"runtime onnx: for the tasks {' and '.join(_ONNX)}, not {task}; write a handler of your own"
            )
        return _named(_ONNX[task])
    if task == "image-classification" and version.source.startswith(TORCHVISION):
        return _named(_VISION)
    if task in _BUILT_IN:
        return _named(_BUILT_IN[task])
    from worker.handlers.pipeline import pipeline_handler

    return pipeline_handler(task)


def _provider(provider: str, task: str) -> type[AnyHandler]:
    try:
        from worker.providers import provider_handler
    except ImportError as error:
        raise ConfigError(f"managed providers need `pip install 'ml-service[providers]'`: {error}") from error
    return provider_handler(provider, task)


def _own(path: str, base: Path | None) -> type[AnyHandler]:
    """`path/to/file.py:Class` or `package.module:Class`."""
    place, _, name = path.rpartition(":")
    if not place.endswith(".py"):
        return _named(path)
    candidates = [folder / place for folder in (base or Path(), Path())]
    file = next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise ConfigError(
            f"handler {path}: no such file; looked for {' and '.join(map(str, dict.fromkeys(candidates)))}"
        )
    # By its contents too: a version that comes later may come with a changed file.
    digest = hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:8]
    module_name = f"ml_handler_{file.stem}_{digest}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"handler {path}: {file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # pydantic looks types up there
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))  # for the user's own files beside it
        try:
            spec.loader.exec_module(module)
        # A user's file may raise anything at import; the text says what, the cause where.
        except Exception as error:
            del sys.modules[module_name]
            raise ConfigError(f"handler {path}: importing it raised {type(error).__name__}: {error}") from error
    return _class(sys.modules[module_name], name, path)


def _named(path: str) -> type[AnyHandler]:
    place, _, name = path.rpartition(":")
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise ConfigError(f"handler {path}: {error}") from error
    return _class(module, name, path)


def _class(module: Any, name: str, path: str) -> type[AnyHandler]:
    found = getattr(module, name, None)
    if found is None:
        raise ConfigError(f"handler {path}: the file has no class {name}")
    if not (isinstance(found, type) and issubclass(found, Handler)):
        raise ConfigError(f"handler {path}: {name} is not a subclass of worker.handler.Handler")
    if not hasattr(found, "io"):
        raise ConfigError(f"handler {path}: write `class {name}(Handler[YourInput, YourOutput])`, or set `io`")
    return found
