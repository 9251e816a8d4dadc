"""`serve`: the whole stack as a model container of SageMaker or Vertex AI, which start an image with this word.

Port: SAGEMAKER_BIND_TO_PORT, AIP_HTTP_PORT, or 8080. Models: `models.yaml` of the model's folder (/opt/ml/model, where
SageMaker unpacks model.tar.gz), else one model, `model`, of the files in it, else this image's own models.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from local.stack import Options
from shared.errors import ConfigError
from shared.tasks import BUILT_IN

MODEL_FOLDER = Path("/opt/ml/model")
PORT = "8080"
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForAudioClassification": "audio-classification",
    "ForCTC": "automatic-speech-recognition",
    "Model": "text-embedding",
}


def options(env: Mapping[str, str], data_dir: Path, *, folder: Path = MODEL_FOLDER) -> Options:
    """Raises ConfigError for files of which it cannot be said what they do."""
    port = env.get("SAGEMAKER_BIND_TO_PORT") or env.get("AIP_HTTP_PORT") or PORT
    if not (port.isdecimal() and int(port) <= 65535):
        raise ConfigError(f"{port!r} is not a port")
    models = _models(env, data_dir, folder)
    return Options(data_dir, models, host="0.0.0.0", port=int(port), flower_port=0)  # noqa: S104 - a container's own


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """What is set where nobody has: the platform hands on no header with a key, and has asked its own callers."""
    return {"ML_AUTH": env.get("ML_AUTH", "off")}


def _models(env: Mapping[str, str], data_dir: Path, folder: Path) -> Path:
    own = folder / "models.yaml"
    if own.is_file():
        return own
    if not folder.is_dir() or not any(folder.iterdir()):
        return Path(env.get("ML_MODELS_FILE", "models.yaml"))
    task = env.get("ML_TASK") or task_of(folder)
    if task not in BUILT_IN:
        raise ConfigError(f"ML_TASK={task!r} is no task; one of {', '.join(sorted(BUILT_IN))}")
    data_dir.mkdir(parents=True, exist_ok=True)
    made = data_dir / "served.yaml"
    made.write_text(yaml.safe_dump({"models": {"model": {"task": task, "versions": {"1": {"source": str(folder)}}}}}))
    return made


def task_of(folder: Path) -> str:
    """By the files of sentence-transformers, or the architecture in transformers' config.json. Raises ConfigError."""
    if (folder / "modules.json").is_file():
        return "text-embedding"
    try:
        kinds = list(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"])
    except (OSError, ValueError, LookupError, TypeError):
        kinds = []
    for kind in kinds:
        for ending, task in _TASKS.items():
            if str(kind).endswith(ending):
                return task
    raise ConfigError(f"what the files in {folder} do is not known: name it in ML_TASK, or add a models.yaml to them")
