"""Models in ONNX files, run by ONNX Runtime (https://onnxruntime.ai/docs/api/python/api_summary.html)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import ConfigError
from shared.logs import Event, get_logger
from worker.handler import Context

logger = get_logger("worker")

SUFFIX = ".onnx"
_USUAL = ("model.onnx", "onnx/model.onnx")


def onnx_file(source: str) -> Path:
    """The file itself, or the one in a folder (`model.onnx` where there are several). Raises ConfigError."""
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"source {source!r}: no such file or folder")
    for usual in _USUAL:
        if (path / usual).is_file():
            return path / usual
    found = sorted(path.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        told = ", ".join(str(file.relative_to(path)) for file in found) or "none"
        raise ConfigError(f"source {source!r} must hold one {SUFFIX} file, and holds {told}: name the one you mean")
    return found[0]


def files_beside(file: Path, name: str) -> Path:
    """The folder with the tokeniser or preprocessor of a model: the file's own, or the one above where `onnx/` lies.
    Raises ConfigError where neither holds `name`."""
    for folder in (file.parent, file.parent.parent):
        if (folder / name).is_file():
            return folder
    raise ConfigError(f"{file}: there is no {name} beside it")


@dataclass(slots=True)
class OnnxModel:
    """A session, and the names of its inputs and outputs. One thread at a time."""

    session: Any
    inputs: dict[str, Any]  # name: its kind and shape
    outputs: dict[str, Any]

    def run(self, values: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        """Arrays by name to arrays, in the order of `outputs`."""
        found: list[np.ndarray] = self.session.run(outputs, values)
        return found


def load(file: Path, ctx: Context, *, threads: int) -> OnnxModel:
    """On the worker's GPU where it has one and ONNX Runtime can use it, else on the CPU, with so many threads, which do
    not spin: replicas would fight. Raises ConfigError."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{file}: onnxruntime is not installed; pip install onnxruntime") from None
    if ctx.quantize or ctx.dtype != "float32" or ctx.compile:
        raise ConfigError("dtype, quantize and compile change a torch model; an .onnx file is run as it is")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=_providers(onnxruntime, ctx))
    # Its errors have no common class that is public.
    except Exception as error:
        raise ConfigError(f"{file}: not a model that ONNX Runtime can run: {str(error).splitlines()[0]}") from error
    inputs = {value.name: value for value in session.get_inputs()}
    return OnnxModel(session, inputs, {value.name: value for value in session.get_outputs()})


def _providers(onnxruntime: Any, ctx: Context) -> list[str]:
    wanted, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if not ctx.device.startswith("cuda"):
        return [cpu]
    if wanted in onnxruntime.get_available_providers():
        return [wanted, cpu]
    note = "on the CPU: pip install onnxruntime-gpu in the place of onnxruntime"
    logger.warning(Event.MODEL_NOTE, model=f"{ctx.model}@{ctx.version}", note=note)
    return [cpu]
